"""Where Ray itself puts the fleets of shipped run files, on nodes that say they have the GPUs."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.e2e.ray_cluster import NAMESPACE, namespaces

ROOT = Path(__file__).resolve().parents[4]
NODES = "cpus=26 gpus=4 steady=64,cpus=26 gpus=4 spot=64"
FLEET = "learner.resources.steady=1", "rollout.resources.spot=1", "reward.resources.spot=1"
SCENARIO = Path(__file__).with_name("places_scenario.py")


@pytest.mark.integration
@pytest.mark.skipif(not namespaces(), reason="no namespaces of our own here (needs root, unshare and ip)")
def test_ray_puts_ranks_where_nodes_stay_and_the_rest_where_they_may_vanish_or_nothing_anywhere() -> None:
    run = ["deploy/configs/flux1-schnell/8gpu.yaml", *(f"fleet.{override}" for override in FLEET)]
    command = [*NAMESPACE, sys.executable, str(SCENARIO), NODES, *run]
    with tempfile.TemporaryDirectory(prefix="tafs-", dir="/tmp") as folder:  # short: Ray puts sockets below it
        own = {"HOME": folder, "RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, timeout=240, check=False
        )
    assert done.stdout.splitlines() == [  # Ray's processes end with their namespace, so that the code is not asked
        "{'learner steady': 4, 'reward spot': 2, 'rollout spot': 3}",
        "no room: roles without fleet.<role>.resources may take the place of those with them",
    ], done.stderr[-3000:]
