"""A circuit breaker: after several failures in a row, ask no more for a while."""

import threading
from collections.abc import Callable

from rewards.reward import RewardError


class BreakerOpenError(RewardError):
    """The service failed so often that it is not asked just now."""


class Breaker:
    """Closed, it lets calls pass. Open, it refuses them at once, until the pause is over; then one may try.

    Safe to use from several threads.
    """

    def __init__(self, *, failures: int, pause_s: float, clock: Callable[[], float]) -> None:
        """Opens after `failures` calls in a row that failed, for `pause_s` seconds; `clock` gives monotonic seconds."""
        self._limit = failures
        self._pause_s = pause_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._closed_again_at = 0.0

    @property
    def open(self) -> bool:
        """Whether calls are refused just now."""
        with self._lock:
            return self._failures >= self._limit and self._clock() < self._closed_again_at

    def enter(self, service: str) -> None:
        """Raise BreakerOpenError while open. Who passes must report success or failure."""
        with self._lock:
            if self._failures < self._limit:
                return
            left_s = self._closed_again_at - self._clock()
            if left_s > 0:
                raise BreakerOpenError(
                    f"{service}: not asked: the last {self._failures} calls failed; trying again in {left_s:.1f} s"
                )
            self._closed_again_at = self._clock() + self._pause_s  # this caller tries; the others still wait

    def succeeded(self) -> None:
        """A call was answered: close."""
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        """A call was not answered."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit:
                self._closed_again_at = self._clock() + self._pause_s
