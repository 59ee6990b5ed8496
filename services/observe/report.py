"""report.html: a run on one page that needs nothing but itself, no network and no script."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from services.observe import sections
from services.observe.headline import headline
from services.observe.history import UpdateRecord, read_history
from services.observe.sections import Columns, Picture, columns_of
from services.observe.style import step_variables
from services.observe.summary import evaluations_of, read_summary
from services.observe.text import duration_text, share_text

BEFORE_AFTER = "before_after.png"
"""The strip in strips/ that the report shows first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunContents:
    """What a run folder holds, as far as the run has come; a part that is not there is empty."""

    name: str
    records: tuple[UpdateRecord, ...] = ()
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
        summary=read_summary(summary) if summary.exists() else {},
        pictures=_pictures(folder / "strips"),
        config=config.read_text(encoding="utf-8") if config.exists() else "",
        provenance=json.loads(provenance.read_text(encoding="utf-8")) if provenance.exists() else {},
        planned_updates=planned_updates,
    )


def _pictures(folder: Path) -> tuple[Picture, ...]:
    """Before and after side by side, then the first and the last strip."""
    strips = sorted(folder.glob("update_*.png"))
    chosen = [(_strip_heading(path), path) for path in dict.fromkeys([*strips[:1], *strips[-1:]])]
    if (folder / BEFORE_AFTER).exists():
        chosen.insert(0, ("Before and after", folder / BEFORE_AFTER))
    return tuple(Picture(heading=heading, png=path.read_bytes()) for heading, path in chosen)


def _strip_heading(path: Path) -> str:
    return f"Update {int(path.stem.removeprefix('update_'))}"


def write_report(folder: Path, *, planned_updates: int | None = None) -> Path:
    """Write report.html into a run folder from what lies there, and return its path."""
    path = folder / "report.html"
    part = path.with_name(path.name + ".part")
    part.write_text(render_report(read_run(folder, planned_updates=planned_updates)), encoding="utf-8")
    part.replace(path)
    return path


def render_report(run: RunContents) -> str:
    """The page."""
    columns = columns_of(run.records)
    light, dark = step_variables(len(columns.steps))
    state, state_class = _state(run)
    package = files("services.observe")
    return Template(package.joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=escape(run.name),
        css=package.joinpath("report.css").read_text(encoding="utf-8"),
        light_steps=light,
        dark_steps=dark,
        state=escape(state),
        state_class=state_class,
        tiles=_tiles(run, columns),
        results=headline(evaluations_of(run.summary) if run.summary else ()),
        rewards=sections.rewards_section(columns),
        learning=sections.learning_section(columns),
        system=sections.system_section(columns),
        pictures=sections.pictures_section(run.pictures),
        configuration=sections.configuration_section(run.config),
        provenance=sections.provenance_section(run.provenance),
    )


def _state(run: RunContents) -> tuple[str, str]:
    """How far the run has come, and whether that is short of its plan."""
    planned = run.planned_updates
    if not run.records:
        return "No update has been made yet.", "stopped"
    last = run.records[-1]
    when = datetime.fromtimestamp(last.unix_time, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    lineage = f", lineage {last.lineage}" if last.lineage else ""
    if planned is not None and last.update < planned:
        return f"Unfinished: {last.update} of {planned} updates, the last one on {when}{lineage}", "stopped"
    return f"{last.update} updates, the last one on {when}{lineage}", "finished"


def _tiles(run: RunContents, columns: Columns) -> str:
    last = run.records[-1] if run.records else None
    wall_seconds = run.summary.get("wall_seconds", last.run_seconds if last else 0.0)
    tiles = [
        ("updates", f"{last.update if last else 0:,}"),
        ("images", f"{last.images_total if last else 0:,}"),
        ("wall time", duration_text(wall_seconds)),
        ("denoising steps", str(len(columns.steps) or "–")),
    ]
    if last and last.run_seconds > 0:
        tiles.insert(3, ("images per second", f"{last.images_total / last.run_seconds:.3g}"))
    ages = [age for record in run.records for age in record.staleness]
    if ages:
        tiles.append(("mean staleness", f"{np.mean(ages):.2f}"))
    if "utilisation" in run.summary:
        tiles.append(("utilisation", share_text(run.summary["utilisation"])))
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles)
