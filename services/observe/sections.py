"""The report's sections, each a function from columns to HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import Any

import numpy as np

from services.observe import plots, series, words
from services.observe.hacking import Look
from services.observe.history import ReportFigures, RewardFigures, UpdateRecord
from services.observe.pictures import Picture, figure, slider
from services.observe.series import Column
from services.observe.style import category
from services.observe.text import share_text

TIME_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
PHASES = ("wait", "load", "forward_backward", "publish", "checkpoint")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """What every chart is drawn over."""

    records: tuple[UpdateRecord, ...]
    figures: tuple[ReportFigures, ...]
    updates: Column
    images: Column  # images so far
    time: Column  # in `time_unit`
    time_unit: str

    @property
    def steps(self) -> tuple[int, ...]:
        """The K denoising steps."""
        return tuple(range(series.num_steps(self.figures)))


def columns_of(records: Sequence[UpdateRecord]) -> Columns:
    """The columns that all sections share; wall time in the unit that keeps its numbers short."""
    seconds = np.array([record.run_seconds for record in records], dtype=np.float64)
    longest = float(seconds.max(initial=0.0))
    unit, size = next(entry for entry in TIME_UNITS if longest > 3 * entry[1] or entry[1] == 1.0)
    return Columns(
        records=tuple(records),
        figures=tuple(record.figures for record in records),
        updates=np.array([record.update for record in records], dtype=np.float64),
        images=np.array([record.images_total for record in records], dtype=np.float64),
        time=seconds / size,
        time_unit=unit,
    )


def rewards_section(columns: Columns) -> str:
    """Each reward's curves, over images and over wall time."""
    names = series.reward_names(columns.figures)
    if not names:
        return none("No update has been made yet.")
    return step_legend(columns.steps) + "".join(
        _reward(columns, name, f"reward{number}") for number, name in enumerate(names)
    )


def _reward(columns: Columns, name: str, prefix: str) -> str:
    means = series.reward_means(columns.figures, name)
    if not means:
        return f'<h3 class="reward">{escape(name)}</h3>' + none("No step has been scored.")
    last = means[max(means)]
    known = last[np.isfinite(last)]
    note = f"step {max(means)}: {known[0]:.3g} → {known[-1]:.3g}{_counts_as(columns.figures[-1].rewards.get(name))}"
    time_label = f"running time in {columns.time_unit}"
    over_images = plots.step_curves(f"{prefix}i", columns.images, means, x_label="images", y_label="mean reward")
    over_time = plots.step_curves(f"{prefix}t", columns.time, means, x_label=time_label, y_label="mean reward")
    return (
        f'<h3 class="reward">{escape(name)}</h3>'
        f'<div class="grid">{chart("Over images", over_images, note)}{chart("Over running time", over_time)}</div>'
    )


def _counts_as(reward: RewardFigures | None) -> str:
    """What weight and gate made of a reward in the last update; nothing where it counted in full."""
    if reward is None or (reward.weight == 1.0 and not reward.passed) or not np.isfinite(reward.weight):
        return ""
    passed = [share for share in reward.passed if np.isfinite(share)]
    return f" · weight {reward.weight:.3g}" + (f" · gate passed by {share_text(passed[-1])}" if passed else "")


def panel_section(looks: Sequence[Look]) -> str:
    """Trained rewards, held-out ones and the pictures' statistics over the looks; nothing without looks."""
    if not looks:
        return ""
    updates = np.array([look.update for look in looks], dtype=np.float64)
    rows = {
        "trained": {name: [fmean(look.trained[name]) for look in looks] for name in looks[-1].trained},
        "held out": {name: [fmean(look.panel[name]) for look in looks] for name in looks[-1].panel},
        "pictures": {name: [look.statistics[name] for look in looks] for name in looks[-1].statistics},
    }
    cards = []
    for kind, columns in rows.items():
        for number, (name, values) in enumerate(columns.items()):
            prefix = f"look{kind.replace(' ', '')}{number}"
            drawing = plots.curve(
                prefix, updates, np.array(values), x_label="update", y_label=name.replace("_", " "), smooth=False
            )
            title = f"{name.replace('_', ' ')} ({kind})"
            cards.append(chart(title, drawing, f"{values[0]:.3g} → {values[-1]:.3g}"))
    return f'<div class="grid">{"".join(cards)}</div>'


def learning_section(columns: Columns) -> str:
    """Advantages, drift, gradient and loss, and the updates that changed nothing."""
    figures = columns.figures
    if not figures:
        return none("No update has been made yet.")
    by_step = (
        ("advantage", "Advantages", "standard deviation", words.ADVANTAGES, [e.advantage_std for e in figures]),
        ("drift", "Drift from the behaviour policy", "standard deviations", words.DRIFT, [e.drift for e in figures]),
        ("diversity", "Diversity within groups", "distance", words.DIVERSITY, [e.diversity for e in figures]),
        ("temperature", "Temperature", "temperature", words.TEMPERATURE, [e.temperature for e in figures]),
    )
    by_update = (
        ("gradient", "Gradient norm", "norm", words.GRADIENT, [e.grad_norm for e in figures]),
        ("clip", "Clipped pairs", "share", words.CLIPPED, [e.clip_fraction for e in figures]),
        ("distance", "Distance from the base model", "distance", words.DISTANCE, [e.distance for e in figures]),
        ("kl", "Divergence from the reference", "KL", words.DIVERGENCE, [e.kl for e in figures]),
        ("loss", "Loss", "loss", words.LOSS, [e.loss for e in figures]),
        ("rate", "Learning rate", "rate", words.RATE, [e.rate for e in figures]),
    )
    drawn = [_by_step(columns, *entry) for entry in by_step] + [_by_update(columns, *entry) for entry in by_update]
    cards = "".join(card for card, _ in drawn)
    constant = ", ".join(told for _, told in drawn if told)
    same = none(f"The same throughout: {constant}.") if constant else ""
    idle = [entry.update for entry in figures if not entry.trained]
    skipped = none(f"Updates without a finite gradient changed nothing: {', '.join(map(str, idle))}.") if idle else ""
    return step_legend(columns.steps) + f'<div class="grid">{cards}</div>' + same + skipped


def _by_step(
    columns: Columns, name: str, title: str, y_label: str, caption: str, rows: Sequence[Mapping[int, float]]
) -> tuple[str, str]:
    """A chart with a curve per step; where all of it is one number, that in words."""
    lines = series.by_step(rows)
    if (only := series.constant(list(lines.values()))) is not None:
        return "", f"{title.lower()} {only:.4g}"
    if not lines:
        return "", ""
    drawing = plots.step_curves(name, columns.updates, lines, x_label="update", y_label=y_label)
    return chart(title, drawing, caption=caption), ""


def _by_update(
    columns: Columns, name: str, title: str, y_label: str, caption: str, values: Sequence[float]
) -> tuple[str, str]:
    """The same of one curve; nothing where it is 0 throughout: it was not asked for."""
    column = np.array(values, dtype=np.float64)
    if (only := series.constant([column])) is not None:
        return "", f"{title.lower()} {only:.4g}" if only else ""
    if not np.isfinite(column).any():
        return "", ""
    drawing = plots.curve(name, columns.updates, column, x_label="update", y_label=y_label)
    return chart(title, drawing, f"last {column[np.isfinite(column)][-1]:.3g}", caption=caption), ""


def system_section(columns: Columns) -> str:
    """Phases, throughput, staleness, and where the calls' seconds went."""
    records = columns.records
    if not records:
        return none("No update has been made yet.")
    cards = []
    speed = series.images_per_second(records)
    if np.isfinite(speed).any():
        drawing = plots.curve("speed", columns.updates, speed, x_label="update", y_label="images per second")
        mean = columns.images[-1] / records[-1].run_seconds
        cards.append(chart("Throughput", drawing, f"mean {mean:.3g} images/s", caption=words.THROUGHPUT))
    staleness = [age for record in records for age in record.staleness]
    if staleness:
        drawing = plots.staleness_bars("staleness", staleness)
        mean_age = f"mean {np.mean(staleness):.2f} updates"
        cards.append(chart("Staleness of groups", drawing, mean_age, caption=words.STALENESS))
    return _phases(columns) + f'<div class="grid">{"".join(cards)}</div>' + _calls(columns)


def _phases(columns: Columns) -> str:
    phases = series.by_name([record.phase_seconds for record in columns.records])
    if not phases:
        return ""
    phases = {name: phases[name] for name in sorted(phases, key=_place)}
    total = sum(float(column.sum()) for column in phases.values()) or 1.0
    names = [f"{name.replace('_', ' ')} {share_text(column.sum() / total)}" for name, column in phases.items()]
    below = legend([(name, f"--category-{category(number)}") for number, name in enumerate(names)])
    drawing = plots.phase_stack("phases", columns.updates, phases)
    return f'<div class="grid">{chart("The learner’s time", drawing, caption=words.PHASES, below=below)}</div>'


def _place(phase: str) -> int:
    """Where a phase stands in the stack: in the order of an update, whatever the first record began with."""
    return PHASES.index(phase) if phase in PHASES else len(PHASES)


def _calls(columns: Columns) -> str:
    calls = series.by_name([record.call_seconds for record in columns.records])
    if not calls:
        return ""
    wall = max(columns.records[-1].run_seconds, 1e-9)
    totals = {name: float(column.sum()) for name, column in calls.items()}
    longest = max(*totals.values(), 1e-9)
    body = "".join(
        f'<tr><th>{escape(name)}</th><td class="bar"><i style="width: {100 * total / longest:.1f}%"></i></td>'
        f'<td class="number">{total:,.1f} s</td><td class="number">{share_text(total / wall)}</td></tr>'
        for name, total in totals.items()
    )
    return (
        '<figure class="card"><figcaption><h3>Inside network, decoder and scorer calls</h3></figcaption>'
        f'<p class="caption">{escape(words.CALLS)}</p><table>{body}</table></figure>'
    )


def pictures_section(pictures: Sequence[Picture]) -> str:
    """Before and after side by side, and the strips of single updates under a slider."""
    if not pictures:
        return none("This run has no strips.")
    single = [picture for picture in pictures if picture.update is not None]
    figures = "".join(figure(picture) for picture in pictures if picture.update is None)
    return f'<div class="pictures">{figures}{slider({"": single}) if single else ""}</div>'


def configuration_section(config: str) -> str:
    """The resolved configuration as it was run."""
    if not config.strip():
        return none("No configuration was found.")
    return f'<details class="card" open><summary>config.yaml</summary><pre>{escape(config)}</pre></details>'


def provenance_section(provenance: Mapping[str, Any]) -> str:
    """Commit, model digest and versions, as run.json has them."""
    if not provenance:
        return none("No run.json was found.")
    rows = "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in flat(provenance).items()
    )
    return f'<div class="card"><table>{rows}</table></div>'


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """The tree's leaves as text, nested keys joined with spaces."""
    leaves: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{above}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            leaves.update(flat(value, f"{name} "))
        else:
            leaves[name] = "–" if value is None else str(value)
    return leaves


def step_legend(steps: Sequence[int]) -> str:
    """The colours of the denoising steps."""
    return legend([(f"step {step}", f"--step-{step}") for step in steps])


def chart(title: str, drawing: str, note: str = "", *, caption: str = "", below: str = "") -> str:
    """A card around a drawing. note: a figure beside the title; caption: what is shown, in a sentence."""
    side = f"<span>{escape(note)}</span>" if note else ""
    head = f"<figcaption><h3>{escape(title)}</h3>{side}</figcaption>"
    head += f'<p class="caption">{escape(caption)}</p>' if caption else ""
    return f'<figure class="card">{head}{below}<div class="scroll">{drawing}</div></figure>'


def none(sentence: str) -> str:
    """A sentence where there is nothing to show."""
    return f'<p class="none">{escape(sentence)}</p>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Names beside their colours, CSS variables."""
    items = "".join(f'<li><i style="background: var({variable})"></i>{escape(name)}</li>' for name, variable in entries)
    return f'<ul class="legend">{items}</ul>'
