"""The stop sign: SIGINT, SIGTERM and `tafs drain` ask the run to finish what is in flight, checkpoint and leave.

A second signal leaves what is in flight to the next start, and checkpoints at once; a third ends the process.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console


class StopSign:
    """Raised by the first signal, urgent with the second; the next one interrupts. Enter it from the main thread."""

    def __init__(self, console: Console) -> None:
        self.raised = False
        self.urgent = False
        self._heeded = False
        self._console = console
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        self.arm()
        return self

    def arm(self) -> None:
        """Take the signals; again after something else (Ray, at its start) has taken them."""
        for number in (signal.SIGINT, signal.SIGTERM):
            previous = signal.signal(number, self._raise)
            self._before.setdefault(number, previous)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ask(self, who: str) -> None:
        """Raise it, for somebody who asks in another way than by a signal."""
        if not self.raised:
            self.raised = True
            self._console.print(f"{who}: finishing the groups in flight, then a checkpoint")

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """For the time in which somebody looks whether it is urgent; outside of it a second signal interrupts."""
        self._heeded = True
        try:
            yield
        finally:
            self._heeded = False

    def _raise(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self.raised:
            self.ask(f"{name} (again = a checkpoint at once)")
        elif self._heeded and not self.urgent:
            self.urgent = True
            self._console.print(f"{name} again: a checkpoint at once (again = without one)")
        else:
            raise KeyboardInterrupt
