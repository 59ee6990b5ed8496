"""Several runs on one page: figures side by side, curves over each other, and what sets the runs apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import numpy as np
import yaml

from services.observe import plots, series, words
from services.observe.headline import interval_text, metric_title, sampler_title, value_text
from services.observe.history import ReportFigures
from services.observe.page import Head, Section, render_page
from services.observe.pictures import slider
from services.observe.report import RunContents, state_of
from services.observe.sections import TIME_UNITS, Columns, chart, columns_of, flat, legend, none
from services.observe.series import Column
from services.observe.style import category
from services.observe.summary import WHENS, evaluations_of
from services.observe.text import duration_text

ABSENT = "–"


def render_comparison(runs: Mapping[str, RunContents]) -> str:
    """The page. runs: by the name that each goes by on it."""
    columns = {name: columns_of(run.records) for name, run in runs.items()}
    unfinished = [name for name, run in runs.items() if not state_of(run)[1]]
    head = Head(
        kind="TAFS-GRPO runs",
        title=" · ".join(runs) if len(runs) <= 3 else f"{len(runs)} runs",
        state=f"Unfinished: {', '.join(unfinished)}" if unfinished else "All of them are finished.",
        finished=not unfinished,
        tiles=[],
    )
    sections = (
        Section(id="results", heading="Results", body=_results(runs, columns)),
        Section(
            id="rewards",
            heading="Rewards",
            lead="Mean over the samples of each update, at the last denoising step that is scored.",
            body=_rewards(columns),
        ),
        Section(id="learning", heading="Learning", body=_learning(columns)),
        Section(id="system", heading="System", body=_system(columns)),
        Section(
            id="pictures",
            heading="Pictures",
            lead="One row per run, each at its newest strip up to the update.",
            body=_pictures(runs),
        ),
        Section(id="configuration", heading="Configuration", body=_configuration(runs)),
        Section(id="provenance", heading="Provenance", body=_provenance(runs)),
    )
    return render_page(head, sections, num_steps=max((len(c.steps) for c in columns.values()), default=0))


def _results(runs: Mapping[str, RunContents], columns: Mapping[str, Columns]) -> str:
    """One column per run: how far it came, how fast, and its figures before and after."""
    rows: dict[str, dict[str, str]] = {}
    for name, run in runs.items():
        for key, value in (*_progress(run, columns[name]), *_figures(run)):
            rows.setdefault(key, {})[name] = value
    return table(rows, runs)


def _progress(run: RunContents, columns: Columns) -> list[tuple[str, str]]:
    if not run.records:
        return [("updates", "0")]
    last = run.records[-1]
    ages = [age for record in run.records for age in record.staleness]
    return [
        ("updates", f"{last.update:,}" + (f" of {run.planned_updates:,}" if run.planned_updates else "")),
        ("images", f"{last.images_total:,}"),
        ("running time", duration_text(last.run_seconds)),
        ("images per second", f"{last.images_total / max(last.run_seconds, 1e-9):.3g}"),
        ("mean staleness", f"{np.mean(ages):.2f}" if ages else ABSENT),
        ("denoising steps", str(len(columns.steps))),
    ]


def _figures(run: RunContents) -> list[tuple[str, str]]:
    if not run.summary:
        return []
    found = {(e.metric, e.sampler, e.when): e for e in evaluations_of(run.summary)}
    rows = []
    for metric, sampler in dict.fromkeys((metric, sampler) for metric, sampler, _ in found):
        values = [found.get((metric, sampler, when)) for when in WHENS]
        text = " → ".join(ABSENT if value is None else value_text(value) for value in values)
        last = values[1] or values[0]
        assert last is not None
        rows.append((f"{metric_title(metric)}, {sampler_title(sampler)}", f"{text} ({interval_text(last)})"))
    return rows


def _rewards(columns: Mapping[str, Columns]) -> str:
    names = dict.fromkeys(name for c in columns.values() for name in series.reward_names(c.figures))
    if not names:
        return none("No update has been made yet.")
    body, (unit, size) = run_legend(columns), _time_unit(columns)
    for number, name in enumerate(names):
        lasts = {run: _last_step(c, name) for run, c in columns.items()}
        over_images = {run: (c.images, lasts[run]) for run, c in columns.items()}
        over_time = {run: (_seconds(c) / size, lasts[run]) for run, c in columns.items()}
        cards = [
            _overlay(f"r{number}i", "Over images", "images", "mean reward", over_images),
            _overlay(f"r{number}t", "Over running time", f"running time in {unit}", "mean reward", over_time),
        ]
        body += f'<h3 class="reward">{escape(name)}</h3><div class="grid">{"".join(cards)}</div>'
    return body


def _last_step(columns: Columns, reward: str) -> Column:
    means = series.reward_means(columns.figures, reward)
    return means[max(means)] if means else np.full(len(columns.figures), np.nan)


def _time_unit(columns: Mapping[str, Columns]) -> tuple[str, float]:
    """The unit of the run that took longest."""
    longest = max(float(_seconds(c).max(initial=0.0)) for c in columns.values())
    return next(entry for entry in TIME_UNITS if longest > 3 * entry[1] or entry[1] == 1.0)


def _seconds(columns: Columns) -> Column:
    return np.array([record.run_seconds for record in columns.records], dtype=np.float64)


def _learning(columns: Mapping[str, Columns]) -> str:
    def every(read: Callable[[ReportFigures], float]) -> dict[str, tuple[Column, Column]]:
        return {run: (c.updates, np.array([read(f) for f in c.figures], np.float64)) for run, c in columns.items()}

    def mean(values: Mapping[int, float]) -> float:
        return float(np.mean(list(values.values()))) if values else np.nan

    all_steps = "; mean of the steps"
    charts = (
        ("gradient", "Gradient norm", "norm", words.GRADIENT, every(lambda f: f.grad_norm)),
        ("clip", "Clipped pairs", "share", words.CLIPPED, every(lambda f: f.clip_fraction)),
        ("drift", f"Drift{all_steps}", "standard deviations", words.DRIFT, every(lambda f: mean(f.drift))),
        (
            "advantage",
            f"Advantages{all_steps}",
            "standard deviation",
            words.ADVANTAGES,
            every(lambda f: mean(f.advantage_std)),
        ),
        ("kl", "Divergence from the reference", "KL", words.DIVERGENCE, every(lambda f: f.kl)),
        ("rate", "Learning rate", "rate", words.RATE, every(lambda f: f.rate)),
    )
    cards = [_overlay(name, title, "update", y, curves, caption=caption) for name, title, y, caption, curves in charts]
    return run_legend(columns) + f'<div class="grid">{"".join(cards)}</div>'


def _system(columns: Mapping[str, Columns]) -> str:
    speed = {run: (c.updates, series.images_per_second(c.records)) for run, c in columns.items()}
    ages = {run: (c.updates, series.mean_staleness(c.records)) for run, c in columns.items()}
    cards = [
        _overlay("speed", "Throughput", "update", "images per second", speed, caption=words.THROUGHPUT),
        _overlay("age", "Staleness of groups", "update", "mean in updates", ages, caption=words.STALENESS),
    ]
    return run_legend(columns) + f'<div class="grid">{"".join(cards)}</div>' + _phases(columns)


def _phases(columns: Mapping[str, Columns]) -> str:
    rows = {}
    for run, c in columns.items():
        sums = {k: float(v.sum()) for k, v in series.by_name([r.phase_seconds for r in c.records]).items()}
        total = sum(sums.values())
        if total > 0:
            rows[run] = {phase: seconds / total for phase, seconds in sums.items()}
    if not rows:
        return ""
    parts = list(dict.fromkeys(part for shares in rows.values() for part in shares))
    below = legend([(part.replace("_", " "), f"--category-{category(number)}") for number, part in enumerate(parts)])
    drawing = plots.share_rows("phases", rows, x_label="share of the learner’s time")
    return f'<div class="grid wide">{chart("The learner’s time", drawing, caption=words.PHASES, below=below)}</div>'


def _overlay(
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    curves: Mapping[str, tuple[Column, Column]],
    *,
    caption: str = "",
) -> str:
    """A chart, or nothing where no run has the figure or all are 0 throughout. curves: x and y by run."""
    if not any(np.isfinite(y).any() and np.nan_to_num(y).any() for _, y in curves.values()):
        return ""
    drawing = plots.run_curves(name, list(curves.values()), x_label=x_label, y_label=y_label)
    return chart(title, drawing, caption=caption)


def _pictures(runs: Mapping[str, RunContents]) -> str:
    lanes = {name: [p for p in run.pictures if p.update is not None] for name, run in runs.items()}
    lanes = {name: lane for name, lane in lanes.items() if lane}
    return f'<div class="pictures">{slider(lanes)}</div>' if lanes else none("These runs have no strips.")


def _configuration(runs: Mapping[str, RunContents]) -> str:
    settings = {name: _texts(yaml.safe_load(run.config) or {}) for name, run in runs.items() if run.config.strip()}
    if len(settings) < len(runs):
        missing = [name for name in runs if name not in settings]
        return none(f"No configuration was found of {', '.join(missing)}.")
    differing = differences(settings)
    alike = len(dict.fromkeys(key for s in settings.values() for key in s)) - len(differing)
    lead = f'<p class="lead">{len(differing)} settings differ, {alike} are alike.</p>'
    return lead + table(differing, runs, text=True) if differing else lead


def _provenance(runs: Mapping[str, RunContents]) -> str:
    differing = differences({name: flat(run.provenance) for name, run in runs.items()})
    if not differing:
        return none("Commit, inputs and versions are the same.")
    return table(differing, runs, text=True)


def _texts(tree: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Settings by their dotted keys, as a run file writes them."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found.update(_texts(value, f"{above}{key}."))
        elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            found.update(_texts({str(index): entry for index, entry in enumerate(value)}, f"{above}{key}."))
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
            found[f"{above}{key}"] = text.removesuffix("\n").removesuffix("\n...")
    return found


def differences(settings: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """By key, then run: what the runs do not all have alike; absent is a dash."""
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    rows = {key: {run: values.get(key, ABSENT) for run, values in settings.items()} for key in keys}
    return {key: row for key, row in rows.items() if len(set(row.values())) > 1}


def table(rows: Mapping[str, Mapping[str, str]], runs: Mapping[str, object], *, text: bool = False) -> str:
    """One row per key, one column per run; `text` for values as they are written."""
    heads = "".join(f"<th>{_dot(number)}{escape(name)}</th>" for number, name in enumerate(runs))
    cell = '<td class="text">' if text else "<td>"
    body = "".join(
        f"<tr><th>{escape(key)}</th>{''.join(f'{cell}{escape(row.get(name, ABSENT))}</td>' for name in runs)}</tr>"
        for key, row in rows.items()
    )
    return (
        '<div class="card scroll"><table class="runs">'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def run_legend(runs: Mapping[str, object]) -> str:
    """The runs' colours."""
    return legend([(name, f"--category-{category(number + 1)}") for number, name in enumerate(runs)])


def _dot(number: int) -> str:
    return f'<i style="background: var(--category-{category(number + 1)})"></i>'
