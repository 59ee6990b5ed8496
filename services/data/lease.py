"""Leases: a worker's heartbeat renews what it has claimed, the controller's janitor takes away what nobody renews.

    with Heartbeat(Queue(redis, run), owner, lease_s):      in every rollout and reward worker, around its loop
        ...

    with Sweeping(queue, lease_s) as sweeping:              in the controller, around its loop
        ...

A heartbeat says only that the process lives and reaches the server. A worker that lives and does not move keeps its
claims: that is for whoever watches progress, who kills it and calls queue.release.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from services.data.ledger import Lost
from services.data.queue import Queue
from services.errors import BlobError, RunMissing, ServerUnavailable, Superseded

BEATS_PER_LEASE = 3
"""So many renewals fall into one lease: two may be lost on the way."""


class Beat:
    """Calls a step every so often in a thread of its own; a context manager.

    The server's absence, or a store's, is waited out. Any other error of the step ends the thread and is raised by
    `check`, and when the context ends.
    """

    def __init__(self, step: Callable[[], object], every_s: float, name: str) -> None:
        self._step = step
        self._every_s = every_s
        self._over = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(self._every_s)  # a step that hangs in a lost server's socket is left to die with the process
        if error is None:
            self.check()

    def check(self) -> None:
        """Raise what ended the thread."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._step()
            except (ServerUnavailable, RunMissing, BlobError):
                pass  # it comes back, or is reconciled; until then there is nothing to renew or to take away
            except Exception as error:  # the thread's edge: handed to whoever asks
                self._error = error
                return
            self._over.wait(self._every_s)


class Heartbeat(Beat):
    """Renews everything that the owner has claimed, from now on until the context ends."""

    def __init__(self, queue: Queue, owner: str, lease_s: float) -> None:
        """queue: on a client of its own, or at least one that other threads do not block for long."""
        super().__init__(lambda: queue.renew(owner), lease_s / BEATS_PER_LEASE, f"heartbeat of {owner}")


class Sweeping(Beat):
    """The janitor: takes away what is not renewed, and keeps word of it for whoever asks."""

    def __init__(self, queue: Queue, lease_s: float) -> None:
        """queue: one that has taken the run over."""
        self._queue = queue
        self._lease_s = lease_s
        self._lost: list[Lost] = []
        self._refused: int | None = None  # the epoch with which the last sweep was refused
        self._lock = threading.Lock()
        super().__init__(self._sweep, lease_s / (2 * BEATS_PER_LEASE), "janitor")

    def take(self) -> tuple[Lost, ...]:
        """What was lost since the last call."""
        self.check()
        with self._lock:
            lost, self._lost = tuple(self._lost), []
        return lost

    def _sweep(self) -> None:
        """One sweep. Its controller may take the run over anew, after an outage, while a sweep of its former epoch is
        still on the way: such a one is refused once, and twice with one epoch only if it was somebody else.
        """
        epoch = self._queue.epoch
        try:
            lost = self._queue.sweep(self._lease_s)
        except Superseded:
            if self._refused == epoch:
                raise
            self._refused = epoch
            return
        with self._lock:
            self._lost.extend(lost)
