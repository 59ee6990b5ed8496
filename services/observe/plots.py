"""The report's charts, each a function from columns to inline SVG.

A chart carries no title and no legend: the page has both, in its own type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from services.observe.series import Column, binned, moving_mean
from services.observe.style import CATEGORIES, GRID, TEXT, category_colour, draw_svg, step_colour

NOISY = 40
"""From this many updates on, a noisy curve shows its moving mean and stands behind it as a shade."""
NOISELESS = ("rate",)
"""Charts whose curve is drawn as it is: it has no noise to be smoothed away."""
FROM_ZERO = ("speed",)
"""Charts of an amount, whose axis begins at 0."""
LINE_STYLES = ("-", "--", ":")
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
    smooth: bool = True,
) -> str:
    """One curve of the whole update; `smooth` off for what has no noise."""

    def draw(axes: Axes) -> None:
        _curve(axes, x, column, category_colour(1), smooth=smooth and name not in NOISELESS)
        if name in FROM_ZERO:
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
        axes.set_xticks(values[:: -(-len(values) // 12)])
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


def run_curves(name: str, curves: Sequence[tuple[Column, Column]], *, x_label: str, y_label: str) -> str:
    """One curve per run, (x, y) each; run i has category colour i + 1, and from the sixth on it is dashed."""
    longest = max((len(x) for x, _ in curves), default=0)  # all are smoothed alike, however long they are

    def draw(axes: Axes) -> None:
        for number, (x, column) in enumerate(curves):
            style = LINE_STYLES[number // (CATEGORIES - 1) % 3]
            smooth = name not in NOISELESS
            _curve(axes, x, column, category_colour(number + 1), smooth=smooth, style=style, among=longest)
        if name in FROM_ZERO:
            axes.set_ylim(bottom=0.0)
        _label(axes, x_label, y_label)

    return draw_svg(name, f"{y_label} over {x_label}, one curve per run", draw)


def event_lanes(name: str, lanes: Mapping[str, Sequence[float]], *, x_label: str) -> str:
    """When what happened: one row per lane, the first on top and in the muted colour."""

    def draw(axes: Axes) -> None:
        for row, moments in enumerate(lanes.values()):
            colour = category_colour(0 if row == 0 else row)
            axes.vlines(moments, row - 0.32, row + 0.32, color=colour, linewidth=1.2 if row == 0 else 2.4)
        axes.set_yticks(range(len(lanes)), list(lanes))
        axes.set_ylim(len(lanes) - 0.4, -0.6)
        axes.margins(x=0.01)
        axes.grid(visible=False)
        axes.set_xlabel(x_label, color=TEXT)

    return draw_svg(name, "events over time", draw, width=11.2, height=0.9 + 0.3 * len(lanes))


def share_rows(name: str, rows: Mapping[str, Mapping[str, float]], *, x_label: str) -> str:
    """Shares of a whole, one bar per row; the part i of all parts has category colour i."""
    parts = list(dict.fromkeys(part for shares in rows.values() for part in shares))

    def draw(axes: Axes) -> None:
        for row, shares in enumerate(rows.values()):
            left = 0.0
            for number, part in enumerate(parts):
                width = shares.get(part, 0.0)
                axes.barh(row, width, left=left, height=0.6, color=category_colour(number))
                left += width
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0.0, 1.0)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(visible=False)
        axes.set_xlabel(x_label, color=TEXT)

    return draw_svg(name, x_label, draw, width=11.2, height=0.9 + 0.34 * len(rows))


def _curve(
    axes: Axes, x: Column, column: Column, colour: str, *, smooth: bool = True, style: str = "-", among: int = 0
) -> None:
    """A curve over the updates; among: how many updates the longest of the chart's curves has."""
    among = max(among, len(x))
    size = max(1, -(-among // POINTS_MAX))
    x, column = binned(x, size), binned(column, size)
    seen = np.isfinite(column)
    if smooth and np.count_nonzero(seen) >= NOISY:
        window = max(3, -(-among // size) // 20)
        axes.plot(x, column, color=colour, alpha=0.28, linewidth=1.0)
        axes.plot(x[seen], moving_mean(column, window)[seen], color=colour, linestyle=style)
    else:
        marker = "o" if np.count_nonzero(seen) <= 12 else ""
        axes.plot(x[seen], column[seen], color=colour, linestyle=style, marker=marker, markersize=4.5)


def _label(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, color=TEXT)
    axes.set_ylabel(y_label, color=TEXT)
    if x_label in {"update", "images"}:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=(1, 2, 5, 10), integer=True))
    if axes.get_xlim()[1] >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    low, high = axes.get_ylim()
    if low < 0.0 < high:
        axes.axhline(0.0, color=GRID, linewidth=1.4, zorder=0)
