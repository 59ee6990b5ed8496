"""`tafs submit` against real Ray clusters with their job server: token, exit codes, drain, resubmission, lost nodes."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from .conftest import ROOT
from .ray_cluster import NAMESPACE, namespaces

TIMEOUT_S = 900
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(TIMEOUT_S + 30),
    pytest.mark.skipif(not namespaces(), reason="no namespaces of our own here (needs root, unshare and ip)"),
]


def scenario(name: str) -> dict:
    """What was seen in it."""
    with tempfile.TemporaryDirectory(prefix="tafs-e2e-", dir="/tmp") as folder:  # short: Ray puts sockets below it
        done = subprocess.run(
            [*NAMESPACE, sys.executable, str(Path(__file__).with_name(name)), folder],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_submitted_run_needs_the_token_drains_when_stopped_and_goes_on_when_submitted_again() -> None:
    seen = scenario("submit_scenario.py")
    code, text = seen["refused"]
    assert code == 64
    assert "expected a token that the cluster knows" in text
    assert f"run long is going on as job {seen['first']}" in seen["again"]
    assert seen["drained"] == [0, f"stopping job {seen['first']}\n"]
    assert seen["checkpoints"][-1] == f"update_{seen['stopped_at']:06d}", "the drain must end in a checkpoint"
    assert f"going on from the checkpoint of update {seen['stopped_at']}" in seen["resumed_log"]


@pytest.mark.slow
def test_runs_share_a_cluster_and_a_server_and_survive_a_kill_and_a_lost_node() -> None:
    seen = scenario("cluster_scenario.py")
    code, text = seen["bad"]
    assert code == 64, "a bad configuration's code must come through, or it would be tried again"
    assert "learning.updates" in text
    assert seen["side_by_side"] == {"one": 0, "two": 0}
    assert 2 <= seen["killed_at"] < 8
    code, text = seen["resumed"]
    assert code == 0, text
    assert len(set(seen["digests"].values())) == 1, "beside another run, or killed and resumed: equal weights"
    code, text = seen["whole"]
    assert code == 0, f"{seen['lost']}: {text}"
    assert seen["secret_in_files"] == []
