"""A run that is going on gets more workers, and fewer, and is drained."""

import json
import signal
import time
from pathlib import Path

import pytest

from services.cli.elastic import ask_drain, ask_workers

from .conftest import DEADLINE_S
from .going import LONG, Going, newest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3 * DEADLINE_S)]


def test_a_fleet_grows_and_shrinks_and_is_drained(tmp_path) -> None:
    going = Going(tmp_path, "elastic", *LONG, "fleet.rollout.workers=1", "learning.updates=400")
    try:
        going.wait_for(lambda: going.update() >= 1, "update 1")
        ask_workers(going.folder, ["rollout=2"])
        going.wait_for(lambda: (w := going.worker("rollout-1")) and w.state == "healthy" and w.groups, "a second one")
        ask_workers(going.folder, ["rollout=1"])
        going.wait_for(lambda: going.worker("rollout-1").state == "stopped", "its end")
        ask_drain(going.folder, wait_s=DEADLINE_S)
        log = going.end()
    finally:
        going.close()
    assert going.process.returncode == 143, log
    assert "rollout: 1 -> 2 workers (tafs scale)" in log
    assert "rollout-1 has left" in log
    assert_nothing_is_left(going.folder)


@pytest.mark.slow
def test_a_second_signal_ends_the_run_at_once_and_the_first_one_only_after_what_is_in_flight(tmp_path) -> None:
    slow = ("fleet.max_staleness=2", "learning.updates=40", "evaluation=null", "sampling.samples_per_group=8")
    going = Going(tmp_path, "asked", *slow)
    try:
        going.wait_for(lambda: going.update() >= 2, "update 2")
        going.process.send_signal(signal.SIGTERM)
        log = going.end()
        assert going.process.returncode == 143, log
        assert_nothing_is_left(going.folder)
        done = going.update()

        going = Going(tmp_path, "asked", *slow)
        going.wait_for(lambda: going.update() >= done + 2, "two more updates")
        going.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        going.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        log = going.end()
        assert going.process.returncode == 143, log
        assert time.monotonic() - began < 30
    finally:
        going.close()


def assert_nothing_is_left(folder: Path) -> None:
    """Less than an update's groups are in flight; the checkpoint is of the last update, and has every group once."""
    status = json.loads((folder / "status.json").read_text())
    assert status["queue"]["in_flight"] < 2, status["queue"]
    progress = json.loads((newest(folder) / "state.json").read_text())["progress"]
    assert progress["update"] == status["record"]["update"]
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    consumed = [ordinal for record in history for ordinal in record["report"]["consumed"]]
    assert len(consumed) == len(set(consumed)) == sum(stop - start for start, stop in progress["consumed"])
