"""What the run's observers are told about an update."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from services.data.wire import ScoredEntry
from services.fleet.messages import Progress, UpdateResult
from services.observe.history import UpdateRecord


def all_phases(measured: Mapping[str, float], whole_s: float) -> dict[str, float]:
    """The phases of an update, with the rest of the time since the update before it as `other`: they add up to it.

    `other` is the queue's bookkeeping, the observers, and the calls' way to the learner and back.
    """
    return {**measured, "other": max(0.0, whole_s - sum(measured.values()))}


def record_of(
    now: Progress, entries: Sequence[ScoredEntry], result: UpdateResult, phase_seconds: Mapping[str, float]
) -> UpdateRecord:
    """The record of the update that led to `now`, and was made of these groups."""
    groups = [entry.group for entry in entries]
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
            "score": sum(entry.timings["score"] for entry in entries),
            "update": result.call_seconds,
        },
        phase_seconds=dict(phase_seconds),
        report=dict(result.report),
    )
