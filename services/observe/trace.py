"""A run as a Chrome trace: its updates and their phases on a time line, for ui.perfetto.dev or chrome://tracing.

Made from the run folder alone. Phases follow each other without a gap and end with their update, which began where the
one before it ended; only pauses between starts stay empty. Every worker has a track with the groups that it drew or
scored, so that one sees what went on beside an update. Updates that were rolled back are left out, as the history
leaves them out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from services.observe.events import Event as Told
from services.observe.history import UpdateRecord
from services.observe.journeys import Journey

Event = dict[str, Any]
UPDATES, PHASES, EVENTS, WORKERS = 1, 2, 3, 4
"""The tracks, the first worker's last; Perfetto takes them for threads of one process."""


def chrome_trace(
    run: str, records: Sequence[UpdateRecord], journeys: Sequence[Journey] = (), told: Sequence[Told] = ()
) -> bytes:
    """The trace's JSON; told: the run's journal. ValueError where there is no update."""
    if not records:
        raise ValueError("expected at least one update to trace, found none")
    moments = [event.unix_time for event in told] + [j.stages[0].began for j in journeys]
    start = min([*moments, *(_started(record) for record in records)])
    names = [
        _name("process_name", run),
        _name("thread_name", "updates", UPDATES),
        _name("thread_name", "phases", PHASES),
    ]
    if told:
        names.append(_name("thread_name", "journal", EVENTS))
    slots = sorted({s.slot for j in journeys for s in j.stages if s.slot and s.name != "learning"}, key=_by_role)
    tracks = {slot: WORKERS + number for number, slot in enumerate(slots)}
    names += [_name("thread_name", slot, track) for slot, track in tracks.items()]
    events = [event for record in records for event in _events(record, start)]
    events += [span for journey in journeys for span in _work(journey, tracks, start)]
    events += [_moment(event, start) for event in told]
    return msgspec.json.encode({"displayTimeUnit": "ms", "traceEvents": [*names, *events]})


def _by_role(slot: str) -> tuple[str, int]:
    role, _, number = slot.rpartition("-")
    return role, int(number) if number.isdigit() else 0


def _work(journey: Journey, tracks: Mapping[str, int], start: float) -> Iterator[Event]:
    """What workers did for a group."""
    about = {"prompt": journey.prompt, "weights": journey.weights, "update": journey.update, **journey.rewards}
    for stage in journey.stages:
        if stage.slot in tracks:
            yield _span(f"{stage.name} {journey.gid}", tracks[stage.slot], stage.began - start, stage.seconds, about)


def _moment(event: Told, start: float) -> Event:
    name = f"{event.slot or event.kind}: {event.text}"
    return {"ph": "i", "s": "p", "pid": 1, "tid": EVENTS, "name": name, "ts": (event.unix_time - start) * 1e6}


def _started(record: UpdateRecord) -> float:
    """When the update before ended, in seconds since 1970."""
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
