"""Admission: what is dispatched while a run goes on, nothing any more while it drains."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.config import RunConfig
from services.data.queue import Queue
from services.errors import ServerFull
from services.fleet.run.patience import Patience

LEAST_PATIENCE_S = 2.0
"""For a worker without work to look up and leave."""


class Admission:
    """Fills free places with tickets, as Redis decides, until `drain` says that nothing more is to be dispatched."""

    def __init__(self, config: RunConfig, queue: Queue, patiently: Patience, note: Callable[[str], None]) -> None:
        self.drain: Callable[[], bool] = lambda: False
        self._queue = queue
        self._patiently = patiently
        self._note = note
        self._groups_per_update = config.learning.groups_per_update
        self._drain_timeout_s = config.fleet.supervision.drain_timeout_s
        self._drain_until: float | None = None
        self._full = False  # the server, when it was last asked

    def admit(self) -> int:
        """How many groups were dispatched. A full server takes none, until what is in flight has made room there."""
        if self.drain():
            return 0
        try:
            admitted = self._queue.admit(time.time_ns() // 1_000_000)
        except ServerFull as error:
            if not self._full:
                self._note(f"no group is dispatched before the server has room: {error}")
            self._full = True
            return 0
        self._full = False
        return admitted

    def drained(self) -> bool:
        """Whether a run that drains is done: what is in flight makes no update any more, or took too long."""
        if not self.drain():
            return False
        if self._drain_until is None:
            self._drain_until = time.monotonic() + self._drain_timeout_s
        in_flight = self._patiently(self._queue.statistics).in_flight
        return in_flight < self._groups_per_update or time.monotonic() > self._drain_until

    @property
    def patience_s(self) -> float:
        """How long workers that are asked to leave may still take."""
        if self._drain_until is None:
            return self._drain_timeout_s
        return max(LEAST_PATIENCE_S, self._drain_until - time.monotonic())
