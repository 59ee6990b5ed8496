"""A run under a real Prometheus and Alertmanager with the rules as they are shipped: in health, and over a kill that it
recovers from, nobody is called.

    make quiet MINUTES=10
"""

import os
import signal
import time
from pathlib import Path

import pytest

from ..services.observe.test_prometheus import ALERTMANAGER, PROMETHEUS
from ..services.observe.watchers import Prometheus, Receiver, free_port, programs, wait_for, write_configuration
from .conftest import DEADLINE_S
from .test_kills import Going

MINUTES = float(os.environ.get("TAFS_QUIET_MINUTES", "10"))
AFTER_MINUTES = 4.0
"""What is watched after the kill: longer than an alert about deaths waits."""
NAME = "quiet"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.timeout(60 * (MINUTES + AFTER_MINUTES) + 3 * DEADLINE_S),
    pytest.mark.skipif(
        PROMETHEUS is None or ALERTMANAGER is None,
        reason="prometheus or alertmanager is not installed (Debian: prometheus, prometheus-alertmanager)",
    ),
]
FOR_EVER = (
    "learning.updates=100000",
    "learning.groups_per_update=4",
    "learning.checkpoint_every=25",
    "fleet.rollout.workers=2",
    "fleet.rollout.cpus=0.3",
    "evaluation=null",
)


def test_a_healthy_run_and_one_that_recovers_from_a_kill_call_nobody(tmp_path: Path) -> None:
    receiver, alerts, port = Receiver(), free_port(), free_port()
    write_configuration(tmp_path, tmp_path, alerts, receiver.url, hasty=False)
    prometheus = Prometheus(port)
    going = None
    try:
        with programs(tmp_path, alerts, port):
            wait_for(prometheus.ready)
            going = Going(tmp_path, NAME, *FOR_EVER)
            going.wait_for(lambda: prometheus.query("max(tafs_updates_total)") >= [1.0], "the first update")
            watch(going, prometheus, MINUTES)
            healthy = going.update()
            incarnation = going.strike("rollout-1", signal.SIGKILL)
            going.wait_for(lambda: going.is_back("rollout-1", incarnation), "rollout-1 again")
            watch(going, prometheus, AFTER_MINUTES)
            assert prometheus.query('max(tafs_worker_deaths_total{role="rollout",replica="1"})') == [1.0]
            assert going.update() > healthy > 0
            assert prometheus.fired() == set()
            assert receiver.alerts == []
            print(f"\n{going.update()} updates, {healthy} before the kill; alerts that were ever pending: ", end="")
            print(prometheus.fired(state="pending") or "none")
            going.process.send_signal(signal.SIGTERM)
            going.end()
    finally:
        if going is not None:
            going.close()
        receiver.close()


def watch(going: Going, prometheus: Prometheus, minutes: float) -> None:
    """Let so much time pass, as long as nothing fires and the run lives."""
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        assert going.process.poll() is None, going.log.read_text()
        assert prometheus.fired() == set(), going.log.read_text()
        time.sleep(5)
