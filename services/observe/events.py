"""The journal of a run: events.jsonl, one line for each thing that is not an update, only ever appended to.

Starts and ends, returns to a checkpoint, workers that died, groups given up: what an engineer asks for first when a
curve has a kink. The report draws it, `tafs trace` shows it beside the updates.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

FILE = "events.jsonl"
KINDS: Mapping[str, str] = {
    "start": "starts",
    "end": "ends",
    "lineage": "back to a checkpoint",
    "worker": "workers",
    "learner": "learner",
    "checkpoint": "checkpoints",
    "failed": "failed attempts",
    "evicted": "groups drawn anew",
    "dead": "groups given up",
    "hacking": "reward hacking",
    "error": "errors",
}
"""The kinds of event and what the report calls them; a kind that is not here goes by its own name."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a run."""

    unix_time: float  # seconds since 1970
    kind: str  # of KINDS
    text: str  # one sentence
    update: int = 0  # the last one done when it happened
    slot: str = ""  # the worker it is about, e.g. "rollout-0"; empty: the run


class EventLog:
    """Appends to a run's journal; each line reaches the file whole, before `add` returns."""

    def __init__(self, folder: Path) -> None:
        """A line that a killed process left half written is ended, so that the next one stands alone."""
        path = folder / FILE
        torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        self._file = path.open("ab", buffering=0)
        if torn:
            self._file.write(b"\n")

    def add(self, kind: str, text: str, *, update: int = 0, slot: str = "") -> Event:
        """Write what happened just now; the event."""
        event = Event(unix_time=time.time(), kind=kind, text=text, update=update, slot=slot)
        self._file.write(msgspec.json.encode(event) + b"\n")
        return event

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._file.close()


def read_events(folder: Path) -> tuple[Event, ...]:
    """A run folder's journal in the order of its lines; empty where there is none. Half lines are left out."""
    path = folder / FILE
    if not path.exists():
        return ()
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(msgspec.json.decode(line, type=Event))
        except msgspec.DecodeError:  # cut off by a kill in the middle of a write
            continue
    return tuple(found)
