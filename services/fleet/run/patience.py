"""Patience with a server that does not answer for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from services.errors import ServerUnavailable, StalledError

PAUSE_S = 0.25
"""Between two attempts while the server does not answer."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Called with what asks the server for something, it tries again while there is no answer."""

    timeout_s: float
    keep_server: Callable[[], None]
    """Called before every attempt: a run's own server is started again where it has died."""

    def __call__(self, action: Callable[[], T]) -> T:
        """The action's result. StalledError after timeout_s."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                self.keep_server()
                return action()
            except ServerUnavailable as error:
                if time.monotonic() > deadline:
                    patience = f"{self.timeout_s:.0f} s (fleet.stall_timeout_s)"
                    raise StalledError(f"no answer of the server for {patience}: {error}") from error
            time.sleep(PAUSE_S)
