"""Workers killed for real, in the middle of a run: it goes on, and ends with the very weights of an undisturbed one."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from services.observe.workers import WorkerFigures, read_workers

from .conftest import DEADLINE_S, ROOT, command, environment
from .test_run import equal

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3 * DEADLINE_S)]
ALONE = ("reward-0", "learner-0")
"""The run waits for these; it may be over before any other is back."""
LONG = (
    "learning.updates=8",
    "fleet.max_staleness=0",
    "fleet.rollout.workers=2",
    "fleet.rollout.cpus=0.3",
    "evaluation=null",
    "learning.checkpoint_every=3",
)
RECOVERY_S = {"rollout": 15.0, "reward": 15.0, "learner": 60.0}
"""What a kill may cost on a quiet machine with a warm page cache; four times that is a failure."""


class Going:
    """A run that is going on."""

    def __init__(self, parent: Path, name: str, *overrides: str) -> None:
        self.folder = parent / name
        self.log = parent / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command(parent, name, *overrides), cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT
            )

    def wait_for(self, found: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not found():
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"{what} never came:\n{self.log.read_text()}"
            time.sleep(0.05)

    def update(self) -> int:
        history = self.folder / "history.jsonl"
        lines = history.read_text().splitlines() if history.exists() else []
        return json.loads(lines[-1])["update"] if lines else 0

    def worker(self, slot: str) -> WorkerFigures | None:
        file = read_workers(self.folder)
        known = {} if file is None else {worker.slot: worker for worker in file.workers}
        return known.get(slot)

    def strike(self, slot: str, number: signal.Signals) -> int:
        """Send the signal to the slot's process when it is at work; its incarnation."""
        self.wait_for(
            lambda: (w := self.worker(slot)) is not None and w.state == "healthy" and w.pid, f"{slot} at work"
        )
        struck = self.worker(slot)
        os.kill(struck.pid, number)
        return struck.incarnation

    def is_back(self, slot: str, incarnation: int) -> bool:
        found = self.worker(slot)
        return found is not None and found.incarnation > incarnation and found.state == "healthy"

    def end(self) -> str:
        self.process.wait(timeout=DEADLINE_S)
        return self.log.read_text()

    def close(self) -> None:
        """Nothing of it goes on."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=30)


def killed_run(parent: Path, name: str, kills: dict[int, tuple[str, signal.Signals]], *overrides: str) -> Going:
    """A run in which, behind each of these updates, one worker is struck, and is waited for."""
    going = Going(parent, name, *overrides)
    try:
        for update, (slot, number) in kills.items():
            going.wait_for(lambda update=update: going.update() >= update, f"update {update}")
            incarnation = going.strike(slot, number)
            if slot in ALONE:
                going.wait_for(lambda slot=slot, before=incarnation: going.is_back(slot, before), f"{slot} again")
        going.end()
    finally:
        going.close()
    return going


def newest(folder: Path) -> Path:
    return sorted((folder / "checkpoints").glob("update_*"))[-1]


def assert_equal_to(going: Going, whole: Path) -> None:
    for name in ("trained", "average", "optimizer"):
        a, b = (load_file(newest(folder) / f"{name}.safetensors") for folder in (whole, going.folder))
        assert equal(a, b), f"{name} differs"
    progress = json.loads((newest(going.folder) / "state.json").read_text())["progress"]
    assert progress["consumed"] == [[0, 16]]


def assert_trained_once(going: Going) -> None:
    """In the surviving lineage every group is trained once, and none without all its samples."""
    from services.observe.history import read_history

    records = read_history(going.folder / "history.jsonl")
    consumed = [ordinal for record in records for ordinal in record.report["consumed"]]
    assert [record.update for record in records] == list(range(1, 9))
    assert sorted(consumed) == list(range(16)), "a group was lost or trained twice"
    assert all(record.report["images"] == 2 * 4 for record in records), "an incomplete group was trained"
    versions = [json.loads(line)["version"] for line in (going.folder / "history.jsonl").read_text().splitlines()]
    assert len(set(versions)) == len(versions), "a version was used twice"


def assert_quick(going: Going) -> None:
    log = going.log.read_text()
    times = re.findall(r"(rollout|reward|learner)-\d+ is back after ([\d.]+) s", log)
    print("recovery:", *(f"{role} {seconds} s" for role, seconds in times))
    for role, seconds in times:
        assert float(seconds) < 4 * RECOVERY_S[role], log


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of an undisturbed run."""
    going = killed_run(tmp_path_factory.mktemp("undisturbed"), "whole", {}, *LONG)
    assert going.process.returncode == 0, going.log.read_text()
    return going.folder


def test_killed_workers_of_every_role_are_replaced_and_change_nothing(tmp_path, whole) -> None:
    kills = {
        1: ("rollout-0", signal.SIGKILL),
        2: ("reward-0", signal.SIGKILL),
        4: ("learner-0", signal.SIGKILL),  # behind the checkpoint of update 3: one update is lost, and made again
    }
    going = killed_run(tmp_path, "killed", kills, *LONG)
    log = going.log.read_text()
    assert going.process.returncode == 0, log
    assert "the learner is back" in log
    assert_equal_to(going, whole)
    assert_trained_once(going)
    assert_quick(going)


def test_a_server_that_dies_is_started_again_and_changes_nothing(tmp_path, whole) -> None:
    going = Going(tmp_path, "forgetful", *LONG)
    try:
        going.wait_for(lambda: going.update() >= 2, "update 2")
        family = psutil.Process(going.process.pid).children(recursive=True)
        (server,) = (p for p in family if re.search("valkey|redis", p.name()))
        server.kill()
        going.end()
    finally:
        going.close()
    log = going.log.read_text()
    assert going.process.returncode == 0, log
    assert "the run's own server died, and was started again" in log
    assert_equal_to(going, whole)
    assert_trained_once(going)


@pytest.mark.slow
def test_a_worker_that_hangs_is_found_by_its_silence_and_replaced(tmp_path, whole) -> None:
    quick = ("fleet.supervision.suspect_after_s=3", "fleet.supervision.dead_after_s=8")
    going = killed_run(tmp_path, "stopped", {1: ("rollout-1", signal.SIGSTOP)}, *LONG, *quick)
    log = going.log.read_text()
    assert going.process.returncode == 0, log
    assert "no heartbeat for" in log
    assert "no answer in" in next((going.folder / "stacks").glob("*.txt")).read_text()
    assert_equal_to(going, whole)
    assert_trained_once(going)


@pytest.mark.slow
def test_a_run_whose_restarts_are_spent_ends_with_the_reason(tmp_path) -> None:
    going = Going(tmp_path, "spent", *LONG, "fleet.supervision.restarts=0", "learning.updates=200")
    going.wait_for(lambda: going.update() >= 1, "the first update")
    going.strike("reward-0", signal.SIGKILL)
    log = going.end()
    assert going.process.returncode == 70, log
    assert "1 reward worker(s) spent their restarts (fleet.supervision.restarts)" in log


@pytest.mark.slow
def test_a_run_whose_own_process_is_killed_goes_on_and_ends_the_same(tmp_path, whole) -> None:
    going = Going(tmp_path, "resumed", *LONG)
    going.wait_for(lambda: going.update() >= 4, "update 4")
    family = psutil.Process(going.process.pid).children(recursive=True)
    going.process.kill()
    going.end()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert [p.name() for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    again = killed_run(tmp_path, "resumed", {}, *LONG)
    assert again.process.returncode == 0, again.log.read_text()
    assert_equal_to(again, whole)
    assert_trained_once(again)
