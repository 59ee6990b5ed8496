"""The controller: wires the parts, drives them, and never touches a tensor.

      tickets --> [rollout workers] --> groups --> [reward workers] --> scored
         ^                                                                 |  claimed here, headers only
         |  finish_update frees places, admit fills them                   v
      [this loop] <-- report, version -- [learner ranks] <-- order: the entries of one update

    loop             consumes           produces              waits for                  is unblocked by
    rollout worker   a ticket           a group               a ticket                   admit
    reward worker    a group            a scored group        a group                    a rollout's publish
    this loop        scored groups      orders, admissions    groups_per_update groups   a reward worker's publish
    learner rank     an order           a weights version     an order                   this loop

Admission bounds how far the rollouts run ahead; max_staleness 0 *is* synchronous training: no ticket is there before
the weights that its group must be drawn with. Every wait has a deadline; nothing for `stall_timeout_s` ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.config import RunConfig
from services.data.blobs import BlobStore
from services.data.ledger import Claimed, Ledger
from services.data.queue import Queue
from services.data.wire import ScoredEntry, decode
from services.errors import StalledError
from services.fleet.fleet import Fleet
from services.fleet.messages import Progress, UpdateOrder, UpdateResult
from services.observe.history import UpdateRecord
from services.observe.journeys import Journey, journey_of

CLAIM_BLOCK_MS = 200
"""How long one claim waits before the loop looks after its workers again."""
CHECK_ONE_EVERY = 10
"""Asynchronous runs put one group in so many updates through the ratio guard."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A claimed scored group."""

    claimed: Claimed
    entry: ScoredEntry


class Controller:
    """Drives a run from where it stands to its last update, or to the stop sign."""

    def __init__(
        self,
        config: RunConfig,
        fleet: Fleet,
        queue: Queue,
        blobs: BlobStore,
        observe: Callable[[UpdateRecord, Sequence[Journey]], None],
    ) -> None:
        self._config = config
        self._fleet = fleet
        self._queue = queue
        self._blobs = blobs
        self._observe = observe
        self._waiting: list[Scored] = []

    @property
    def epoch(self) -> int:
        """Of this controller's take-over; there is none before begin."""
        assert self._queue.epoch is not None, "begin comes first"
        return self._queue.epoch

    def begin(self, progress: Progress) -> None:
        """Write the run's ledger: what is below the frontier and not consumed is drawn first."""
        learning = self._config.learning
        self._queue.begin(
            Ledger(
                groups_per_update=learning.groups_per_update,
                max_staleness=self._config.fleet.max_staleness,
                total_groups=learning.updates * learning.groups_per_update,
                max_groups=self._config.fleet.max_groups or 0,
                max_payload_bytes=self._config.fleet.max_payload_bytes or 0,
                updates_done=progress.update,
                consumed=progress.consumed,
                frontier=max((stop for _, stop in progress.consumed), default=0),
            )
        )

    def run(self, progress: Progress, stop: Callable[[], bool], after: Callable[[Progress], None]) -> Progress:
        """Update until the run is complete or `stop` says so. `after` is called behind every update."""
        self._queue.admit(_now_ms())
        started = time.monotonic() - progress.run_seconds
        saved_s = 0.0
        while progress.update < self._config.learning.updates and not stop():
            waited = time.monotonic()
            batch = self._collect(stop)
            if batch is None:
                break
            spent = {"checkpoint": saved_s, "wait": time.monotonic() - waited}
            progress = self._update(progress, batch, spent, started=started)
            saving = time.monotonic()
            after(progress)
            saved_s = time.monotonic() - saving
        return progress

    def _collect(self, stop: Callable[[], bool]) -> list[Scored] | None:
        """groups_per_update scored groups, rising in their ordinals; None where `stop` came first."""
        want = self._config.learning.groups_per_update
        deadline = time.monotonic() + self._config.fleet.stall_timeout_s
        while len(self._waiting) < want:
            for claimed in self._queue.claim("scored", "learner", want, CLAIM_BLOCK_MS):
                self._waiting.append(Scored(claimed, decode(claimed.payload, ScoredEntry)))
                deadline = time.monotonic() + self._config.fleet.stall_timeout_s
            self._fleet.check_loops()
            self._queue.admit(_now_ms())  # places that failed groups gave back
            if stop():
                return None
            if time.monotonic() > deadline:
                raise StalledError(
                    f"no scored group for {self._config.fleet.stall_timeout_s:.0f} s (fleet.stall_timeout_s); "
                    f"the queue: {self._queue.statistics()}"
                )
        batch, self._waiting = self._waiting[:want], self._waiting[want:]
        return sorted(batch, key=lambda scored: scored.entry.group.ordinal)

    def _update(
        self, progress: Progress, batch: list[Scored], spent: Mapping[str, float], *, started: float
    ) -> Progress:
        groups = [scored.entry.group for scored in batch]
        ordinals = [group.ordinal for group in groups]
        began = time.time()
        result = self._fleet.update(self._order(progress, batch))
        ended = time.time()
        self._queue.finish_update(progress.update + 1, [scored.claimed for scored in batch], ordinals)
        self._queue.admit(_now_ms())
        self._blobs.delete([ref for group in groups for ref in group.latents])
        now = Progress(
            update=progress.update + 1,
            version=result.version.version,
            lineage=progress.lineage,
            consumed=with_ordinals(progress.consumed, ordinals),
            run_seconds=time.monotonic() - started,
            images_total=progress.images_total + int(result.report["images"]),
        )
        named = {"update": now.update, "version": now.version, "lineage": now.lineage}
        journeys = [journey_of(scored.entry, **named, began=began, ended=ended) for scored in batch]
        phases = all_phases({**spent, **result.phase_seconds}, now.run_seconds - progress.run_seconds)
        self._observe(record_of(now, batch, result, phases), journeys)
        return now

    def _order(self, progress: Progress, batch: list[Scored]) -> UpdateOrder:
        fresh = all(scored.entry.group.weights.version == progress.version for scored in batch)
        return UpdateOrder(
            entries=tuple(scored.claimed.payload for scored in batch),
            version=progress.version + 1,
            lineage=progress.lineage,
            epoch=self.epoch,
            fresh=fresh,
            check_one=not fresh and progress.update % CHECK_ONE_EVERY == 0,
        )


def all_phases(measured: Mapping[str, float], whole_s: float) -> dict[str, float]:
    """The phases of an update, with the rest of the time since the update before it as `other`: they add up to it.

    `other` is the queue's bookkeeping, the observers, and the calls' way to the learner and back.
    """
    return {**measured, "other": max(0.0, whole_s - sum(measured.values()))}


def record_of(
    now: Progress, batch: list[Scored], result: UpdateResult, phase_seconds: Mapping[str, float]
) -> UpdateRecord:
    """What the run's observers are told about an update."""
    groups = [scored.entry.group for scored in batch]
    return UpdateRecord(
        update=now.update,
        version=now.version,
        lineage=now.lineage,
        unix_time=time.time(),
        run_seconds=now.run_seconds,
        images_total=now.images_total,
        staleness=tuple(now.update - 1 - group.weights.update for group in groups),
        call_seconds={
            "sample": sum(group.timings["sample"] for group in groups),
            "decode": sum(group.timings["decode"] for group in groups),
            "score": sum(scored.entry.timings["score"] for scored in batch),
            "update": result.call_seconds,
        },
        phase_seconds=dict(phase_seconds),
        report=dict(result.report),
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


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
