"""The way of every group that was learned from: groups.jsonl, one line per group, only ever appended to.

    admitted -> drawing -> drawn -> scoring -> scored -> learning -> learned

Moments are told by the clock of whoever was there: workers on machines whose clocks differ shift against each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from services.data.wire import RewardColumn, ScoredEntry

FILE = "groups.jsonl"
TICKET_WAIT, DRAWING, SCORING = "ticket_wait", "drawing", "scoring"
"""Names in an entry's timings of seconds on the wall clock; its other timings are CPU seconds."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of a group's way."""

    name: str
    slot: str  # the worker that had it; empty: the queue
    began: float  # seconds since 1970
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took; 0 where two clocks disagree by more."""
        return max(0.0, self.ended - self.began)


class Journey(msgspec.Struct, frozen=True, kw_only=True):
    """One group from its admission to the update that learned from it."""

    gid: str  # ordinal/attempt
    prompt: str  # its id
    weights: int  # the version that drew it
    update: int  # that learned from it
    version: int  # that the update published
    lineage: int
    rewards: dict[str, float]  # mean over the samples at the last scored step
    stages: tuple[Stage, ...]

    @property
    def ordinal(self) -> int:
        """The group's place in the run's order of prompts."""
        return int(self.gid.partition("/")[0])


def journey_of(entry: ScoredEntry, *, update: int, version: int, lineage: int, began: float, ended: float) -> Journey:
    """The way of a group that an update from `began` to `ended` (seconds since 1970) learned from."""
    group = entry.group
    drawn, scored = group.created_ms / 1e3, entry.scored_ms / 1e3
    drawing, scoring = drawn - group.timings[DRAWING], scored - entry.timings[SCORING]
    stages = (
        ("ticket waits", "", drawing - group.timings[TICKET_WAIT], drawing),
        ("drawing", group.producer, drawing, drawn),
        ("group waits", "", drawn, scoring),
        ("scoring", entry.producer, scoring, scored),
        ("scored group waits", "", scored, began),
        ("learning", "learner-0", began, ended),
    )
    return Journey(
        gid=f"{group.ordinal}/{group.attempt}",
        prompt=group.prompt.id,
        weights=group.weights.version,
        update=update,
        version=version,
        lineage=lineage,
        rewards={column.name: _last_mean(column) for column in entry.rewards},
        stages=tuple(Stage(name=name, slot=slot, began=start, ended=end) for name, slot, start, end in stages),
    )


def _last_mean(column: RewardColumn) -> float:
    last = max((step for step, scored in enumerate(column.scored) if scored), default=None)
    return 0.0 if last is None else sum(row[last] for row in column.values) / len(column.values)


def append_journeys(folder: Path, journeys: Sequence[Journey]) -> None:
    """Write the journeys behind those of earlier updates, in one write."""
    if journeys:
        with (folder / FILE).open("ab", buffering=0) as file:
            file.write(b"".join(msgspec.json.encode(journey) + b"\n" for journey in journeys))


def read_journeys(folder: Path) -> Iterator[Journey]:
    """The journeys in the order of the updates; none where the file is not there. Half lines are left out."""
    path = folder / FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield msgspec.json.decode(line, type=Journey)
            except msgspec.DecodeError:  # cut off by a kill in the middle of a write
                continue
