"""report.html: a run on one page that needs nothing but itself and no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from services.data.whole_file import write_whole
from services.observe import plots, sections, words
from services.observe.events import Event, read_events
from services.observe.hacking import Look, read_looks
from services.observe.headline import headline
from services.observe.history import UpdateRecord, read_history
from services.observe.page import Head, Section, render_page
from services.observe.pictures import Picture, read_pictures
from services.observe.sections import Columns, columns_of
from services.observe.summary import evaluations_of, read_summary
from services.observe.text import duration_text, share_text
from services.observe.timeline import timeline_section


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunContents:
    """What a run folder holds, as far as the run has come; a part that is not there is empty."""

    name: str
    records: tuple[UpdateRecord, ...] = ()
    events: tuple[Event, ...] = ()
    looks: tuple[Look, ...] = ()  # of the held-out panel
    summary: Mapping[str, Any] = field(default_factory=dict)  # summary.json
    pictures: tuple[Picture, ...] = ()
    config: str = ""  # config.yaml
    provenance: Mapping[str, Any] = field(default_factory=dict)  # run.json
    planned_updates: int | None = None  # None: not known


def read_run(folder: Path, *, planned_updates: int | None = None) -> RunContents:
    """The contents of a run folder; a run that has just begun or was interrupted lacks some files."""
    history, summary = folder / "history.jsonl", folder / "summary.json"
    config, provenance = folder / "config.yaml", folder / "run.json"
    return RunContents(
        name=folder.resolve().name,
        records=read_history(history) if history.exists() else (),
        events=read_events(folder),
        looks=tuple(read_looks(folder)),
        summary=read_summary(summary) if summary.exists() else {},
        pictures=read_pictures(folder / "strips"),
        config=config.read_text(encoding="utf-8") if config.exists() else "",
        provenance=json.loads(provenance.read_text(encoding="utf-8")) if provenance.exists() else {},
        planned_updates=planned_updates,
    )


def write_report(folder: Path, *, planned_updates: int | None = None) -> Path:
    """Write report.html into a run folder from what lies there, and return its path."""
    return write_whole(folder / "report.html", render_report(read_run(folder, planned_updates=planned_updates)))


def render_report(run: RunContents) -> str:
    """The page."""
    columns = columns_of(run.records)
    state, finished = state_of(run)
    head = Head(kind="TAFS-GRPO run", title=run.name, state=state, finished=finished, tiles=_tiles(run, columns))
    return render_page(
        head,
        (
            Section(
                id="results",
                heading="Results",
                body=headline(evaluations_of(run.summary) if run.summary else ()),
            ),
            Section(
                id="rewards",
                heading="Rewards",
                lead="Mean over the samples of each update, judged at every denoising step’s one-step prediction. "
                f"{words.SMOOTHED if len(run.records) >= plots.NOISY else ''}",
                body=sections.rewards_section(columns),
            ),
            Section(
                id="panel",
                heading="Held-out panel",
                lead="The same prompts and seeds, scored by what is trained on and by what is not. Rewards that rise "
                "while the panel falls are being hacked.",
                body=sections.panel_section(run.looks),
            ),
            Section(id="learning", heading="Learning", body=sections.learning_section(columns)),
            Section(id="system", heading="System", body=sections.system_section(columns)),
            Section(id="events", heading="Events", body=timeline_section(run.records, run.events)),
            Section(
                id="pictures",
                heading="Pictures",
                lead="The same prompts and seeds, one column per denoising step. A line below an image is what "
                "was read on it.",
                body=sections.pictures_section(run.pictures),
            ),
            Section(id="configuration", heading="Configuration", body=sections.configuration_section(run.config)),
            Section(id="provenance", heading="Provenance", body=sections.provenance_section(run.provenance)),
        ),
        num_steps=len(columns.steps),
    )


def state_of(run: RunContents) -> tuple[str, bool]:
    """How far the run has come, and whether that is all of its plan."""
    planned = run.planned_updates
    if not run.records:
        return "No update has been made yet.", False
    last = run.records[-1]
    when = datetime.fromtimestamp(last.unix_time, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    lineage = f", lineage {last.lineage}" if last.lineage else ""
    if planned is not None and last.update < planned:
        return f"Unfinished: {last.update} of {planned} updates, the last one on {when}{lineage}", False
    return f"{last.update} updates, the last one on {when}{lineage}", True


def _tiles(run: RunContents, columns: Columns) -> list[tuple[str, str]]:
    last = run.records[-1] if run.records else None
    wall_seconds = run.summary.get("wall_seconds", last.run_seconds if last else 0.0)
    tiles = [
        ("updates", f"{last.update if last else 0:,}"),
        ("images", f"{last.images_total if last else 0:,}"),
        ("running time", duration_text(wall_seconds)),
        ("denoising steps", str(len(columns.steps) or "–")),
    ]
    if last and last.run_seconds > 0:
        tiles.insert(3, ("images per second", f"{last.images_total / last.run_seconds:.3g}"))
    ages = [age for record in run.records for age in record.staleness]
    if ages:
        tiles.append(("mean staleness", f"{np.mean(ages):.2f}"))
    if "utilisation" in run.summary:
        tiles.append(("of all cores in calls", share_text(run.summary["utilisation"])))
    return tiles
