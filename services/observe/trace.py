"""A run as a Chrome trace: its updates and their phases on a time line, for ui.perfetto.dev or chrome://tracing.

Made from the history alone. Phases follow each other without a gap and end with their update; what lies between two
updates (checkpoints, image strips, pauses between starts) stays empty. Updates that were rolled back are left out, as
the history leaves them out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from services.observe.history import UpdateRecord

Event = dict[str, Any]
UPDATES, PHASES = 1, 2
"""The two tracks; Perfetto takes them for threads of one process."""


def chrome_trace(run: str, records: Sequence[UpdateRecord]) -> bytes:
    """The trace's JSON. ValueError where there is no update."""
    if not records:
        raise ValueError("expected at least one update to trace, found none")
    start = min(_started(record) for record in records)
    names = [
        _name("process_name", run),
        _name("thread_name", "updates", UPDATES),
        _name("thread_name", "phases", PHASES),
    ]
    events = [event for record in records for event in _events(record, start)]
    return msgspec.json.encode({"displayTimeUnit": "ms", "traceEvents": [*names, *events]})


def _started(record: UpdateRecord) -> float:
    """When the update began to wait for its groups, in seconds since 1970."""
    return record.unix_time - sum(record.phase_seconds.values())


def _name(kind: str, name: str, track: int = 0) -> Event:
    return {"ph": "M", "pid": 1, "tid": track, "name": kind, "args": {"name": name}}


def _events(record: UpdateRecord, start: float) -> Iterator[Event]:
    """The update, its phases in their order, and its figures as counters; times in microseconds since `start`."""
    figures = record.figures
    began = _started(record) - start
    about = {"version": record.version, "lineage": record.lineage, "images": figures.images, "trained": figures.trained}
    yield _span(f"update {record.update}", UPDATES, began, sum(record.phase_seconds.values()), about)
    for phase, seconds in record.phase_seconds.items():
        yield _span(phase, PHASES, began, seconds, {"update": record.update})
        began += seconds
    for name, reward in figures.rewards.items():
        yield _counter(f"reward {name}", began, {f"step {step}": mean for step, mean in enumerate(reward.mean)})
    if record.staleness:
        yield _counter("staleness", began, {"mean": sum(record.staleness) / len(record.staleness)})
    yield _counter("grad_norm", began, {"norm": figures.grad_norm})


def _span(name: str, track: int, began: float, seconds: float, about: Mapping[str, Any]) -> Event:
    return {"ph": "X", "pid": 1, "tid": track, "name": name, "ts": began * 1e6, "dur": seconds * 1e6, "args": about}


def _counter(name: str, moment: float, values: Mapping[str, float]) -> Event:
    """What is not finite is left out: JSON has no word for it."""
    finite = {key: value for key, value in values.items() if math.isfinite(value)}
    return {"ph": "C", "pid": 1, "tid": 0, "name": name, "ts": moment * 1e6, "args": finite}
