"""The stop sign: SIGINT, SIGTERM and `tafs drain` ask the run to finish what is in flight, checkpoint and leave."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console


class StopSign:
    """Raised by the first signal; a second one interrupts at once. Enter it from the main thread."""

    def __init__(self, console: Console) -> None:
        self.raised = False
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

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.ask(f"{signal.Signals(number).name} (again = at once)")
