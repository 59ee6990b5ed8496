"""What rollout and reward workers have in common: take one piece of work, serve it, look whether to leave.

    queue.claim -> serve -> queue.claim -> ...     until the run's stop sign, or `leave`

An outage of the server pauses the loop; only one that lasts as long as a stall ends it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from services.data.ledger import Claimed, Stage
from services.data.queue import Queue
from services.errors import QueueError, RunMissing, ServerUnavailable, WeightsError

CLAIM_BLOCK_MS = 1000
"""How long one claim waits for work before the worker looks at the stop sign again: a thousand idle workers ask their
server two thousand times a second.
"""
PAUSE_S = 0.25
"""Between two attempts while the server does not answer, or the run is being set back on it."""

T = TypeVar("T")


class WorkLoop:
    """One stage's loop in one worker."""

    def __init__(
        self, queue: Queue, stage: Stage, owner: str, serve: Callable[[Claimed], None], patience_s: float
    ) -> None:
        self._queue = queue
        self._stage = stage
        self._owner = owner
        self._serve = serve
        self._patience_s = patience_s
        self._leaving = threading.Event()

    def leave(self) -> None:
        """End behind the work in hand. From any thread."""
        self._leaving.set()

    def run(self) -> None:
        """Serve until the run is told to stop, or this worker to leave."""
        while not self._over():
            for claimed in self.patiently(self._claim) or []:
                self.patiently(lambda claimed=claimed: self._serve_or_fail(claimed))  # type: ignore[misc]

    def patiently(self, action: Callable[[], T]) -> T | None:
        """The action's result, tried again while the server does not answer; None where the worker should leave.
        Raises the server's error when it has lasted for patience_s.
        """
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return action()
            except (ServerUnavailable, QueueError, WeightsError):
                if time.monotonic() > deadline:
                    raise
            if self._leaving.wait(PAUSE_S):
                return None

    def _serve_or_fail(self, claimed: Claimed) -> None:
        """What cannot be read, or does not fit the queue, counts against its group, which is drawn again."""
        try:
            self._serve(claimed)
        except RunMissing:  # it comes back; the claim may outlive that
            raise
        except QueueError as error:
            self._queue.fail(self._stage, claimed, claimed.ordinal, f"{type(error).__name__}: {error}")

    def _claim(self) -> list[Claimed]:
        return self._queue.claim(self._stage, self._owner, 1, CLAIM_BLOCK_MS)

    def _over(self) -> bool:
        return self._leaving.is_set() or bool(self.patiently(self._queue.stop_requested))
