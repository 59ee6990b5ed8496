"""Named places at which a test ends, or stops, the process that comes by. Without the variable they cost a comparison.

    TAFS_FAILPOINTS=/tmp/marks=rollout.drawn:3=kill,learner.stepped:2=stop

reads: the folder of marks, then for each place at which passing, in one process, what happens. It happens once, whoever
comes there first: before it does, a file with the place's name is made in the folder, which is how a test knows that
the place was reached, and why a process that was started again passes it.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from services.errors import ConfigError

VARIABLE = "TAFS_FAILPOINTS"
PLACES = (
    "rollout.claimed",  # a ticket in hand
    "rollout.drawn",  # payloads stored, the group not yet published
    "rollout.published",
    "reward.claimed",
    "reward.scored",  # not yet published
    "reward.published",  # its images not yet deleted
    "learner.ordered",  # before anything of the update
    "learner.stepped",  # behind the optimizer's step, not yet published
    "learner.published",
    "checkpoint.file",  # behind the first file
    "checkpoint.files",  # all files, no manifest
    "checkpoint.renamed",
    "driver.collected",  # the update's groups claimed
    "driver.trained",  # not yet consumed in the queue
    "driver.consumed",
    "end.published",  # the averaged weights, not yet measured
)
"""All there are; a test asks for each."""
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass(frozen=True, slots=True)
class Failpoints:
    """What is to happen where."""

    marks: Path
    strikes: dict[str, tuple[int, signal.Signals]]  # place: at which passing, and what

    @classmethod
    def parse(cls, text: str) -> Failpoints:
        """Of the variable's value. ConfigError where it is not one."""
        folder, *entries = text.split("=", 1)
        strikes = {}
        for entry in ",".join(entries).split(","):
            where, _, action = entry.partition("=")
            place, _, number = where.partition(":")
            if place not in PLACES or not number.isdigit() or action not in SIGNALS:
                raise ConfigError(
                    f"{VARIABLE}: expected FOLDER=PLACE:NUMBER=kill|stop,..., found {entry!r}; places: {PLACES}"
                )
            strikes[place] = (int(number), SIGNALS[action])
        return cls(Path(folder), strikes)


def _read() -> Failpoints | None:
    text = os.environ.get(VARIABLE)
    return Failpoints.parse(text) if text else None


_FAILPOINTS = _read()
_PASSED: Counter[str] = Counter()


def failpoint(place: str) -> None:
    """The process passes this place, and perhaps no further."""
    if _FAILPOINTS is None or place not in _FAILPOINTS.strikes:
        return
    number, sign = _FAILPOINTS.strikes[place]
    _PASSED[place] += 1
    if _PASSED[place] < number:
        return
    try:
        (_FAILPOINTS.marks / place).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), sign)
