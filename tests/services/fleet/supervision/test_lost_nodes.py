"""A process that dies with its node, told apart by Ray itself from one that dies alone."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.e2e.ray_cluster import NAMESPACE, namespaces

ROOT = Path(__file__).resolve().parents[4]
SCENARIO = Path(__file__).with_name("lost_nodes_scenario.py")


@pytest.mark.integration
@pytest.mark.skipif(not namespaces(), reason="no namespaces of our own here (needs root, unshare and ip)")
def test_a_worker_died_with_its_node_whether_that_vanished_or_left_and_not_where_the_node_goes_on() -> None:
    with tempfile.TemporaryDirectory(prefix="tafs-", dir="/tmp") as folder:  # short: Ray puts sockets below it
        own = {"HOME": folder, "RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        command = [*NAMESPACE, sys.executable, str(SCENARIO)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, timeout=280, check=False
        )
    seen = "3 {'killed': False, 'vanished': True, 'left': True}"  # Ray prints in between, and its nodes end noisily
    assert seen in done.stdout.splitlines(), done.stdout[-3000:] + done.stderr[-3000:]
