"""A real run that goes on while a test does something to it, and what must be true of it afterwards."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from learner.checkpoint import Checkpoint, load_latest
from services.fleet.failpoints import VARIABLE
from services.observe.history import read_history
from services.observe.workers import WorkerFigures, read_workers

from .conftest import DEADLINE_S, ROOT, command, environment
from .test_run import equal

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

    def __init__(self, parent: Path, name: str, *overrides: str, **variables: str) -> None:
        self.folder = parent / name
        self.checkpoints: Path | str = self.folder / "checkpoints"
        self.log = parent / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command(parent, name, *overrides),
                cwd=ROOT,
                env={**environment(), **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
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

    def family(self) -> list[psutil.Process]:
        """Every process of the run, its own left out."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def server(self) -> psutil.Process:
        """The run's own Redis server."""
        (server,) = (process for process in self.family() if re.search("valkey|redis", process.name()))
        return server

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


def failpoints(marks: Path, strikes: Mapping[str, int]) -> dict[str, str]:
    """The variable that has whoever comes by killed, once at each place, at its so many-th passing in one process."""
    marks.mkdir()
    return {VARIABLE: f"{marks}=" + ",".join(f"{place}:{number}=kill" for place, number in strikes.items())}


def newest(folder: Path) -> Path:
    return sorted((folder / "checkpoints").glob("update_*"))[-1]


def last_checkpoint(place: Path | str) -> Checkpoint:
    """The newest one, wherever it is; none may be broken."""
    found = load_latest(place)
    assert found is not None
    assert found[1] == []
    return found[0]


def assert_equal_to(going: Going, whole: Path) -> None:
    """Trained weights, their average, the optimizer and what was consumed, bit by bit."""
    ours, theirs = last_checkpoint(going.checkpoints), last_checkpoint(whole / "checkpoints")
    assert ours.tensors.keys() == theirs.tensors.keys() >= {"trained", "average", "optimizer"}
    for kind, tensors in ours.tensors.items():
        assert equal(tensors, theirs.tensors[kind]), f"{kind} differs"
    assert ours.state["progress"]["consumed"] == theirs.state["progress"]["consumed"]


def assert_trained_once(going: Going, updates: int = 8) -> None:
    """In the surviving lineage every group is trained once, and none without all its samples."""
    records = read_history(going.folder / "history.jsonl")
    consumed = [ordinal for record in records for ordinal in record.report["consumed"]]
    assert [record.update for record in records] == list(range(1, updates + 1))
    assert len(set(consumed)) == len(consumed) == 2 * updates, "a group was lost or trained twice"
    progress = last_checkpoint(going.checkpoints).state["progress"]
    counted = [ordinal for start, stop in progress["consumed"] for ordinal in range(start, stop)]
    assert counted == sorted(consumed), "the checkpoint has consumed other groups than the history"
    assert all(record.report["images"] == 2 * 4 for record in records), "an incomplete group was trained"
    versions = [json.loads(line)["version"] for line in (going.folder / "history.jsonl").read_text().splitlines()]
    assert len(set(versions)) == len(versions), "a version was used twice"


def recoveries(log: str) -> list[tuple[str, float]]:
    """Roles and seconds of every return that the run told of."""
    found = re.findall(r"(rollout|reward|learner)-\d+ is back after ([\d.]+) s", log)
    return [(role, float(seconds)) for role, seconds in found]


def assert_quick(going: Going) -> None:
    """Every worker was back within four times what it may cost."""
    log = going.log.read_text()
    print("recovery:", *(f"{role} {seconds} s" for role, seconds in recoveries(log)), flush=True)
    for role, seconds in recoveries(log):
        assert seconds < 4 * RECOVERY_S[role], log
