"""What a reward was asked, and how it went."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Sums over the calls of one reward."""

    calls: int = 0  # that ended, failed ones among them
    failures: int = 0  # calls that raised, or answered what is no score
    images: int = 0  # scored
    seconds: float = 0.0  # of wall clock within the calls
    retries: int = 0  # tries of a reward's server after the first one
    breakers_open: int = 0  # breakers that keep calls from its server just now

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            calls=self.calls + other.calls,
            failures=self.failures + other.failures,
            images=self.images + other.images,
            seconds=self.seconds + other.seconds,
            retries=self.retries + other.retries,
            breakers_open=self.breakers_open + other.breakers_open,
        )

    def ended(self) -> Tally:
        """What stays of it when its process is gone."""
        return replace(self, breakers_open=0)
