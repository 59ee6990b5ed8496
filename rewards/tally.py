"""What a reward was asked, and how it went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Sums over the calls of one reward."""

    calls: int = 0  # that ended, failed ones among them
    failures: int = 0  # calls that raised, or answered what is no score
    images: int = 0  # scored
    seconds: float = 0.0  # of wall clock within the calls

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            calls=self.calls + other.calls,
            failures=self.failures + other.failures,
            images=self.images + other.images,
            seconds=self.seconds + other.seconds,
        )
