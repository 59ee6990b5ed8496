"""The report's first figures: each metric before and after training, as numbers and drawn on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from services.observe.summary import Evaluation

_WIDTH = 320.0
_TITLES = {"exact_match": "Exact match", "judge_exact_match": "Exact match, held-out judge"}


def headline(evaluations: Sequence[Evaluation]) -> str:
    """One card per metric, one row per sampler, and one for samplers of the same figures; a sentence where nothing was
    evaluated.
    """
    if not evaluations:
        return '<p class="none">This run has no evaluation.</p>'
    metrics = dict.fromkeys(evaluation.metric for evaluation in evaluations)
    cards = [_card(metric, [entry for entry in evaluations if entry.metric == metric]) for metric in metrics]
    return f'<div class="headline">{"".join(cards)}</div>'


def metric_title(metric: str) -> str:
    """The metric's name in words."""
    return _TITLES.get(metric, metric.replace("_", " "))


def sampler_title(sampler: str) -> str:
    """The sampler's name in words: tau_0.5 is the process at temperature 0.5 throughout."""
    return f"τ = {sampler[4:]}" if sampler.startswith("tau_") else sampler.replace("_", " ")


def value_text(evaluation: Evaluation) -> str:
    """The figure as it is read: a share in percent, a mean as it is."""
    return f"{100 * evaluation.value:.1f} %" if evaluation.std is None else f"{evaluation.value:.3g}"


def interval_text(evaluation: Evaluation) -> str:
    """The 95 % interval in the figure's own unit."""
    low, high = evaluation.interval_95
    if evaluation.std is None:
        return f"{100 * low:.1f} to {100 * high:.1f} %"
    return f"{low:.3g} to {high:.3g}"


def _card(metric: str, evaluations: Sequence[Evaluation]) -> str:
    scale = _scale(evaluations)
    alike: dict[tuple[object, ...], list[str]] = {}  # samplers by their figures: at tau 1 serving is tau_1
    for sampler in dict.fromkeys(evaluation.sampler for evaluation in evaluations):
        figures = tuple((entry.when, entry.value, entry.images) for entry in evaluations if entry.sampler == sampler)
        alike.setdefault(figures, []).append(sampler)
    rows = [
        _row(", ".join(map(sampler_title, names)), [entry for entry in evaluations if entry.sampler == names[0]], scale)
        for names in alike.values()
    ]
    ends = [_end_text(end, evaluations[0]) for end in scale]
    return (
        f'<section class="card"><h3>{escape(metric_title(metric))}</h3>{"".join(rows)}'
        f'<div class="scale"><span>{ends[0]}</span><span>{ends[1]}</span></div></section>'
    )


def _row(title: str, evaluations: Sequence[Evaluation], scale: tuple[float, float]) -> str:
    """A sampler's figures before -> after, above their drawing."""
    by_when = {evaluation.when: evaluation for evaluation in evaluations}
    before, after = by_when.get("before"), by_when.get("after")
    images = " and ".join(dict.fromkeys(f"{entry.images:,}" for entry in evaluations))
    return (
        f'<div class="row"><div class="sampler">{escape(title)}</div>'
        f'<div class="figures">{_figure(before, "before")}<span class="arrow">→</span>'
        f"{_figure(after, 'after')}</div>"
        f'<div class="interval">{escape(_intervals(before, after))} <span>· {images} images</span></div>'
        f"{_drawing(before, after, scale)}</div>"
    )


def _figure(evaluation: Evaluation | None, when: str) -> str:
    text = value_text(evaluation) if evaluation else "–"
    return f'<span class="{when}">{escape(text)}</span>'


def _intervals(before: Evaluation | None, after: Evaluation | None) -> str:
    texts = [f"{entry.when} {interval_text(entry)}" for entry in (before, after) if entry]
    return "95 % intervals: " + ", ".join(texts)


def _drawing(before: Evaluation | None, after: Evaluation | None, scale: tuple[float, float]) -> str:
    """Two dots and their intervals on a track that runs over the scale."""
    parts = [f'<line class="track" x1="6" x2="{_WIDTH - 6:.0f}" y1="14" y2="14"/>']
    if before and after:
        start, end = _place(before.value, scale), _place(after.value, scale)
        parts.append(f'<line class="way" x1="{start:.1f}" x2="{end:.1f}" y1="14" y2="14"/>')
    for entry in (before, after):
        if entry:
            low, high = (_place(end, scale) for end in entry.interval_95)
            parts.append(
                f'<g class="{entry.when}"><line x1="{low:.1f}" x2="{high:.1f}" y1="14" y2="14"/>'
                f'<circle cx="{_place(entry.value, scale):.1f}" cy="14" r="5.5"/></g>'
            )
    return f'<svg viewBox="0 0 {_WIDTH:.0f} 28" role="img" aria-label="before and after">{"".join(parts)}</svg>'


def _place(value: float, scale: tuple[float, float]) -> float:
    share = (value - scale[0]) / (scale[1] - scale[0])
    return 6 + min(max(share, 0.0), 1.0) * (_WIDTH - 12)


def _scale(evaluations: Sequence[Evaluation]) -> tuple[float, float]:
    """0 to 1 for a share; of a mean, the span of all its intervals, zero included where it is near."""
    if all(evaluation.std is None for evaluation in evaluations):
        return 0.0, 1.0
    ends = [end for evaluation in evaluations for end in evaluation.interval_95]
    low, high = min(ends), max(ends)
    low = 0.0 if 0.0 <= low < (high - low) else low
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _end_text(end: float, evaluation: Evaluation) -> str:
    return f"{100 * end:.0f} %" if evaluation.std is None else f"{end:.3g}"
