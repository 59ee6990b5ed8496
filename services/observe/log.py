"""The output of a run as JSON lines, for log collectors: every line says which run, who, which weights, which group."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Sequence
from typing import TextIO

import msgspec

from services.observe.history import UpdateRecord
from services.observe.journeys import Journey

DRIVER = "driver"
OWNERS = {"drawing": ("group drawn", False), "scoring": ("group scored", False), "learning": ("group learned", True)}
"""Stages of a group that have a worker: what to say at their end, and whether the update's version counts."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line. Every key is in each, null where it says nothing."""

    time: float  # seconds since 1970, of what happened
    level: str
    run: str
    role: str  # driver, learner, rollout, reward
    replica: str | None  # the worker's number within its role
    version: int | None  # of the weights
    gid: str | None  # the group: ordinal/attempt
    update: int | None
    seconds: float | None  # how long it took
    message: str


class JsonLines(io.TextIOBase):
    """A text stream that writes each line it is given as a JSON object; `emit` writes one with more than a message."""

    def __init__(self, stream: TextIO, run: str) -> None:
        self._stream = stream
        self._run = run
        self._rest = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Take text; whole lines that are not empty go on."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self.emit(line.strip())
        return len(text)

    def emit(
        self,
        message: str,
        *,
        level: str = "info",
        slot: str = "",
        moment: float | None = None,
        version: int | None = None,
        gid: str | None = None,
        update: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """Write one line. slot: the worker, e.g. "rollout-0", empty for the driver; moment: None for now."""
        role, _, replica = slot.rpartition("-")
        line = Line(
            time=time.time() if moment is None else moment,
            level=level,
            run=self._run,
            role=role or DRIVER,
            replica=replica or None,
            version=version,
            gid=gid,
            update=update,
            seconds=seconds,
            message=message,
        )
        with self._lock:
            self._stream.write(msgspec.json.encode(line).decode() + "\n")
            self._stream.flush()

    def tell_update(self, record: UpdateRecord, planned: int, journeys: Sequence[Journey]) -> None:
        """One line for each thing that happened to the update's groups, and one for the update."""
        for journey in journeys:
            for stage in journey.stages:
                if stage.name in OWNERS:
                    message, published = OWNERS[stage.name]
                    self.emit(
                        message,
                        slot=stage.slot,
                        moment=stage.ended,
                        version=journey.version if published else journey.weights,
                        gid=journey.gid,
                        update=journey.update,
                        seconds=stage.seconds,
                    )
        rewards = ", ".join(f"{name} {reward.mean[-1]:.3g}" for name, reward in record.figures.rewards.items())
        self.emit(
            f"update {record.update} of {planned}: {rewards}",
            slot="learner-0",
            moment=record.unix_time,
            version=record.version,
            update=record.update,
            seconds=sum(record.phase_seconds.values()),
        )


class JsonHandler(logging.Handler):
    """Python's log records as lines of the run."""

    def __init__(self, lines: JsonLines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        self._lines.emit(record.getMessage(), level=record.levelname.lower())
