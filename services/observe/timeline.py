"""The report's time line: what happened to a run beside its updates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from services.observe import plots
from services.observe.events import KINDS, Event
from services.observe.history import UpdateRecord
from services.observe.sections import TIME_UNITS, chart, none

SHOWN = 200
"""Events in the table, the last ones."""


def timeline_section(records: Sequence[UpdateRecord], journal: Sequence[Event]) -> str:
    """The events on the run's clock, with its updates, and as a table."""
    events = sorted([*journal, *_of_history(records)], key=lambda event: event.unix_time)
    if not events:
        return none("This run has no journal.")
    started = min(events[0].unix_time, records[0].unix_time if records else events[0].unix_time)
    ended = max(events[-1].unix_time, records[-1].unix_time if records else events[-1].unix_time)
    unit, size = next(entry for entry in TIME_UNITS if ended - started > 3 * entry[1] or entry[1] == 1.0)
    lanes = {"updates": [(record.unix_time - started) / size for record in records]} if records else {}
    for kind in [*KINDS, *dict.fromkeys(event.kind for event in events if event.kind not in KINDS)]:
        moments = [(event.unix_time - started) / size for event in events if event.kind == kind]
        if moments:
            lanes[KINDS.get(kind, kind)] = moments
    drawing = plots.event_lanes("events", lanes, x_label=f"wall clock in {unit} since the first start")
    return f'<div class="grid wide">{chart("On the clock", drawing)}</div>{_table(events)}'


def _of_history(records: Sequence[UpdateRecord]) -> list[Event]:
    """What the updates themselves tell."""
    return [
        Event(
            unix_time=record.unix_time,
            kind="error",
            text=f"Update {record.update} left out an optimizer step: its gradient was not finite.",
            update=record.update,
        )
        for record in records
        if not record.figures.trained
    ]


def _told(event: Event) -> str:
    """The event's text with who it is about, once, and with files of the run folder named from there."""
    text = re.sub(r"\S*/(?=stacks/)", "", event.text)
    return text if text.startswith(event.slot) else f"{event.slot}: {text}"


def _table(events: Sequence[Event]) -> str:
    rows = "".join(
        f"<tr><td>{datetime.fromtimestamp(event.unix_time, tz=UTC):%Y-%m-%d %H:%M:%S}</td>"
        f'<td class="number">{event.update}</td><td>{escape(KINDS.get(event.kind, event.kind))}</td>'
        f"<td>{escape(_told(event))}</td></tr>"
        for event in events[-SHOWN:]
    )
    left_out = f" (the last {SHOWN} of {len(events):,})" if len(events) > SHOWN else ""
    return (
        f'<details class="card" open><summary>Journal{left_out}</summary><div class="scroll"><table class="journal">'
        "<tr><th>UTC</th><th>update</th><th>what</th><th></th></tr>"
        f"{rows}</table></div></details>"
    )
