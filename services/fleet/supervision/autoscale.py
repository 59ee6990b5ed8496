"""How many workers a role should have, decided from what it was seen doing: pure, told what was seen.

    busy and work waits for everyone    -> half as many again
    idle half of the time, nothing waits -> one fewer
    between the two                     -> as it is

Between the two bounds lies a band, so that one worker more or fewer does not at once ask for the opposite. Fewer by
one at a time: a fleet that is too large costs money, one that is too small costs time and has to start again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BUSY = 0.8
"""Above it a role has no time to spare."""
IDLE = 0.5
"""Below it, it has half of its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A role over one window."""

    workers: int  # that there should be now
    busy: float  # share of the workers' time with work in hand, in [0, 1]
    waiting: float  # entries that waited for one of them, on average


def workers_wanted(seen: Seen, least: int, most: int) -> int:
    """How many workers there should be; within [least, most] always."""
    wanted = seen.workers
    if seen.busy >= BUSY and seen.waiting >= seen.workers:
        wanted = seen.workers + math.ceil(seen.workers / 2)
    elif seen.busy < IDLE and seen.waiting < 1:
        wanted = seen.workers - 1
    return min(most, max(least, wanted))
