"""The report's charts, each a function from columns to inline SVG.

A chart carries no title and no legend: the page has both, in its own type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from services.observe.series import Column, binned, moving_mean
from services.observe.style import GRID, TEXT, category_colour, draw_svg, step_colour

NOISY = 40
"""From this many updates on, a noisy curve shows its moving mean and stands behind it as a shade."""
POINTS_MAX, BARS_MAX = 600, 120
"""Where there are more updates, a chart shows means over neighbouring ones."""


def step_curves(name: str, x: Column, columns: Mapping[int, Column], *, x_label: str, y_label: str) -> str:
    """One curve per denoising step."""

    def draw(axes: Axes) -> None:
        for step, column in columns.items():
            _curve(axes, x, column, step_colour(step))
        _label(axes, x_label, y_label)

    return draw_svg(name, f"{y_label} over {x_label}, one curve per step", draw)


def curve(
    name: str,
    x: Column,
    column: Column,
    *,
    x_label: str,
    y_label: str,
    from_zero: bool = False,
    smooth: bool = True,
) -> str:
    """One curve of the whole update; `from_zero` for an amount, `smooth` off for what has no noise."""

    def draw(axes: Axes) -> None:
        _curve(axes, x, column, category_colour(1), smooth=smooth)
        if from_zero:
            axes.set_ylim(bottom=0.0, top=1.08 * float(np.nanmax(column)) or None)
        _label(axes, x_label, y_label)

    return draw_svg(name, f"{y_label} over {x_label}", draw)


def staleness_bars(name: str, staleness: Sequence[int]) -> str:
    """How many groups were how many updates old when they were learned from."""
    counts = Counter(staleness)
    values = range(max(counts, default=0) + 1)

    def draw(axes: Axes) -> None:
        axes.bar(values, [counts[value] for value in values], width=0.62, color=category_colour(1))
        for value in values:
            axes.text(value, counts[value], f"{counts[value]:,}", ha="center", va="bottom", color=TEXT, fontsize=9)
        axes.set_xlim(-0.8, max(len(values), 4) - 0.2)
        axes.margins(y=0.14)
        _label(axes, "staleness in updates", "groups")

    return draw_svg(name, "groups by staleness", draw)


def phase_stack(name: str, updates: Column, phases: Mapping[str, Column]) -> str:
    """Seconds of each learner phase, stacked per update; phase i has category colour i."""
    size = -(-len(updates) // BARS_MAX)
    centres = binned(updates, size)

    def draw(axes: Axes) -> None:
        floor = np.zeros(len(centres))
        for number, column in enumerate(phases.values()):
            heights = binned(column, size)
            axes.bar(centres, heights, bottom=floor, width=0.86 * size, color=category_colour(number))
            floor = floor + heights
        axes.margins(x=0.01)
        _label(axes, "update", "seconds per update")

    return draw_svg(name, "seconds per update by learner phase", draw, width=11.2)


def _curve(axes: Axes, x: Column, column: Column, colour: str, *, smooth: bool = True) -> None:
    size = -(-len(x) // POINTS_MAX)
    x, column = binned(x, size), binned(column, size)
    seen = np.isfinite(column)
    if smooth and np.count_nonzero(seen) >= NOISY:
        axes.plot(x, column, color=colour, alpha=0.28, linewidth=1.0)
        axes.plot(x[seen], moving_mean(column, max(3, len(column) // 20))[seen], color=colour)
    else:
        marker = "o" if np.count_nonzero(seen) <= 12 else ""
        axes.plot(x[seen], column[seen], color=colour, marker=marker, markersize=4.5)


def _label(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, color=TEXT)
    axes.set_ylabel(y_label, color=TEXT)
    if x_label in {"update", "images", "staleness in updates"}:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    if axes.get_xlim()[1] >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    low, high = axes.get_ylim()
    if low < 0.0 < high:
        axes.axhline(0.0, color=GRID, linewidth=1.4, zorder=0)
