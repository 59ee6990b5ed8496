"""`tafs trace`: how a run went, as a trace file; or one group's way through it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from services.errors import ConfigError
from services.observe.events import read_events
from services.observe.history import read_history
from services.observe.journeys import FILE, Journey, read_journeys
from services.observe.trace import chrome_trace


def write_trace(folder: Path, output: Path | None) -> Path:
    """Write a run's trace; its path. ConfigError where the folder is not a run's, or cannot be written to."""
    history = folder / "history.jsonl"
    records = read_history(history) if history.is_file() else ()
    if not records:
        raise ConfigError(f"expected a run folder with a finished update, found no update in {history}")
    path = output or folder / "trace.json"
    trace = chrome_trace(folder.resolve().name, records, tuple(read_journeys(folder)), read_events(folder))
    try:
        path.write_bytes(trace)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}; choose another --output") from error
    return path


def group_lines(folder: Path, group: str) -> Iterator[str]:
    """A group's way, stage by stage. group: its ordinal, or ordinal/attempt. ConfigError where it was not learned
    from.
    """
    found = [journey for journey in read_journeys(folder) if group in {journey.gid, str(journey.ordinal)}]
    if not found:
        raise ConfigError(f"expected a group that was learned from, found no {group} in {folder / FILE}")
    for journey in found:  # more than one: an update was taken back, and the group drawn again
        yield from _lines(journey)


def _lines(journey: Journey) -> Iterator[str]:
    rewards = ", ".join(f"{name} {mean:.3g}" for name, mean in journey.rewards.items())
    yield f"group {journey.gid}, prompt {journey.prompt}: drawn with version {journey.weights}, {rewards}"
    first = journey.stages[0].began
    for stage in journey.stages:
        when = datetime.fromtimestamp(stage.began, tz=UTC).strftime("%H:%M:%S.%f")[:-3]
        where = stage.slot or "queue"
        yield f"  {when} UTC  +{stage.began - first:8.3f} s  {stage.name:20} {stage.seconds:8.3f} s  {where}"
    yield f"  learned from in update {journey.update} of lineage {journey.lineage}, published as {journey.version}"
