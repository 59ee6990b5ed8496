"""What a run's workers do, as `tafs status` and Prometheus show it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rewards.tally import Tally
from services.data.whole_file import write_whole

WORKERS_FILE = "workers.json"
"""In the run folder, written anew every second or so."""
WORKING = ("healthy", "suspect", "draining")
"""The states in which a worker works."""


class WorkerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One slot. Totals run over all processes that have filled it since the run's start."""

    slot: str  # e.g. "rollout-0"
    role: str
    state: str  # of the supervisor's state machine
    reason: str  # of its last death; empty: none yet
    deaths: int
    incarnation: int  # how many processes came before this one
    pid: int  # 0: not known yet
    host: str
    phase: str
    work: str  # in hand; empty: none
    silence_s: float  # since the last heartbeat
    busy_s: float
    idle_s: float
    groups: int
    images: int
    version: int  # of the weights in the module
    digest: str
    deaths_forgiven: int = 0  # of its deaths: they were their node's
    gpu_bytes: int = 0  # that PyTorch holds on the process's GPUs
    rewards: dict[str, Tally] = {}  # of a reward worker, by name

    @property
    def replica(self) -> str:
        """The slot's number within its role."""
        return self.slot.rpartition("-")[2]


class WorkersFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds."""

    unix_time: float
    workers: tuple[WorkerFigures, ...]


def write_workers(folder: Path, workers: Sequence[WorkerFigures]) -> None:
    """Write the file, whole."""
    seen = WorkersFile(unix_time=time.time(), workers=tuple(workers))
    write_whole(folder / WORKERS_FILE, msgspec.json.encode(seen))


def read_workers(folder: Path) -> WorkersFile | None:
    """The run's workers as they were last seen; None before the first look."""
    path = folder / WORKERS_FILE
    return msgspec.json.decode(path.read_bytes(), type=WorkersFile) if path.exists() else None
