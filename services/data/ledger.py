"""The queue's nouns: what a run starts from, what a worker claims, what can be read off at any time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Stage = Literal["tickets", "groups", "scored"]
STAGES: tuple[Stage, ...] = ("tickets", "groups", "scored")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Where a run starts, new or from the learner's checkpoint, and the limits that hold until the next start."""

    groups_per_update: int
    max_staleness: int  # in updates; 0 is synchronous training
    total_groups: int  # how many groups the run consumes in all
    max_attempts: int = 3  # failures of its own after which a group becomes a dead letter
    max_losses: int = 8  # lost workers, one after the other, that a group may cost before it becomes a dead letter
    max_groups: int = 0  # in flight at most; 0: as many as max_staleness allows
    max_payload_bytes: int = 0  # of the groups in flight at most; 0: no bound
    updates_done: int = 0
    consumed: tuple[tuple[int, int], ...] = ()  # ordinals as half-open intervals [start, stop), rising, disjoint
    frontier: int = 0  # the first ordinal never admitted; what is below it and not consumed is admitted first

    def __post_init__(self) -> None:
        """ValueError for a limit out of range or intervals that are not rising, disjoint and below the frontier."""
        limits = (
            ("groups_per_update", self.groups_per_update, 1),
            ("max_staleness", self.max_staleness, 0),
            ("total_groups", self.total_groups, 0),
            ("max_attempts", self.max_attempts, 1),
            ("max_losses", self.max_losses, 0),
            ("max_groups", self.max_groups or self.groups_per_update, self.groups_per_update),
            ("max_payload_bytes", self.max_payload_bytes, 0),
            ("updates_done", self.updates_done, 0),
        )
        for name, found, least in limits:
            if found < least:
                raise ValueError(f"ledger: expected {name} >= {least}, found {found}")
        bounds = [0, *(bound for interval in self.consumed for bound in interval), self.frontier]
        if bounds != sorted(bounds):
            raise ValueError(
                f"ledger: expected consumed to be rising, disjoint intervals in [0, {self.frontier}), "
                f"found {self.consumed}"
            )

    @property
    def num_consumed(self) -> int:
        """How many ordinals were consumed."""
        return sum(stop - start for start, stop in self.consumed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """An entry that its owner works on, until it publishes, fails, evicts or consumes it, or loses it."""

    entry_id: str  # its place in its stage's stream; never of two owners
    payload: bytes  # for wire.decode
    owner: str
    ordinal: int  # of its group; known even where the payload cannot be decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A claim that was taken away from its owner."""

    stage: Stage
    ordinal: int
    owner: str
    fate: Literal["again", "dead"]  # delivered again to whoever asks next, or a dead letter


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatistics:
    """One stage's stream at one moment. entries = pending + ready."""

    entries: int  # groups that stand in this stage
    pending: int  # of these, claimed by a worker
    ready: int  # of these, waiting for a worker
    oldest_age_s: float  # seconds since the oldest entry came, by the server's clock; 0 where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatistics:
    """The whole run at one moment. Counts are of attempts, from the run's last start on."""

    stages: Mapping[Stage, StageStatistics]
    dispatched: int  # tickets written, plus what the checkpoint had consumed at the start
    consumed: int  # groups that went into an update, with those of the checkpoint
    evicted: int  # attempts given back through no fault of their group
    evictions: Mapping[str, int]  # the same by reason
    failed: int  # attempts given back after a failure
    failures: Mapping[Stage, int]  # attempts that failed, by stage, with the last ones of dead letters
    dead: int  # groups that failed, or cost workers, too often and became dead letters
    lost: Mapping[Stage, int]  # claims whose owner was lost, by stage; the attempt went on with another owner
    in_flight: int  # groups that stand in any stage
    holes: int  # ordinals given back that wait to be dispatched again
    frontier: int  # the first ordinal never admitted
    updates_done: int
    payload_bytes: int  # of the groups in flight
    duplicates: int  # results that came after another worker's for the same attempt, and were dropped


def accounting_holds(statistics: QueueStatistics) -> bool:
    """Whether every attempt ever dispatched has exactly one fate, and every group in flight exactly one entry."""
    fates = statistics.consumed + statistics.evicted + statistics.failed + statistics.dead
    return (
        statistics.dispatched == fates + statistics.in_flight
        and statistics.in_flight == sum(stage.entries for stage in statistics.stages.values())
        and statistics.evicted == sum(statistics.evictions.values())
        and statistics.failed <= sum(statistics.failures.values())
    )


def with_ordinals(consumed: tuple[tuple[int, int], ...], ordinals: list[int]) -> tuple[tuple[int, int], ...]:
    """Half-open intervals with more ordinals in them, merged."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted([*consumed, *((ordinal, ordinal + 1) for ordinal in ordinals)]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)
