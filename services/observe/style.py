"""Matplotlib figures as inline SVG that takes its colours and its font from the page it stands in.

Matplotlib can write fixed colours only. Figures are therefore drawn in stand-in colours that occur nowhere else,
and `draw_svg` puts the page's CSS variables in their place: one drawing serves the light and the dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape

import matplotlib
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

TEXT, GRID = "#0a0001", "#0a0002"
_STEP, _CATEGORY = "#0b00{:02x}", "#0c00{:02x}"
_VARIABLES = {TEXT: "currentColor", GRID: "var(--grid)"}
CATEGORIES = 6
"""How many category colours report.css defines; category 0 is the muted one."""

WIDE_PT = 600.0
"""A drawing that is wider is scrolled on a narrow page, where its letters could not be read."""

_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tafs",
    "font.size": 10.0,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "ytick.major.size": 0.0,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


def step_colour(step: int) -> str:
    """The stand-in for the colour of a denoising step."""
    return _STEP.format(step % 256)


def category_colour(number: int) -> str:
    """The stand-in for a category's colour."""
    return _CATEGORY.format(category(number))


def category(number: int) -> int:
    """The colour of the category `number`; past the last colour they begin again after the muted one."""
    return number if number < CATEGORIES else 1 + (number - 1) % (CATEGORIES - 1)


def draw_svg(name: str, label: str, draw: Callable[[Axes], None], *, width: float = 5.4, height: float = 2.7) -> str:
    """What `draw` puts into a pair of axes, as an <svg> element without links, metadata or fonts of its own.

    `name` prefixes the ids within, so that two drawings on a page do not share one; `label` is what a screen reader
    says; sizes are in inches, of which a column of the page shows about five.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), name, label)


def _inline(svg: str, name: str, label: str) -> str:
    """An SVG file's root element, fit to stand in a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s(xmlns(:\w+)?|version)=\"[^\"]*\"", "", svg)
    wide = ' class="wide"' if float(re.findall(r'viewBox="[\d.]+ [\d.]+ ([\d.]+)', svg)[0]) > WIDE_PT else ""
    root = rf'<svg{wide} viewBox="\1" role="img" aria-label="{escape(label)}">'
    svg = re.sub(r"<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>", root, svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r"\b(id=\"|url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    svg = re.sub(r" ?font-family: [^;\"]*;?", "", svg)
    return _with_variables(svg)


def _with_variables(svg: str) -> str:
    """The drawing with CSS variables in place of the stand-ins."""
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(r"#0b00([0-9a-f]{2})", lambda match: f"var(--step-{int(match[1], 16)})", svg)
    return re.sub(r"#0c00([0-9a-f]{2})", lambda match: f"var(--category-{int(match[1], 16)})", svg)


def step_variables(num_steps: int) -> tuple[str, str]:
    """CSS declarations of --step-0 to --step-(K - 1) for a light and for a dark page.

    Both are stretches of viridis, whose lightness rises evenly: steps are told apart in order, in grey print and by
    the colour-blind. The light page leaves out the yellow end, the dark page the violet one.
    """
    return _ramp(num_steps, 0.08, 0.78), _ramp(num_steps, 0.34, 0.98)


def _ramp(num_steps: int, first: float, last: float) -> str:
    viridis = colormaps["viridis"]
    places = [
        first + (last - first) * step / max(num_steps - 1, 1) if num_steps > 1 else (first + last) / 2
        for step in range(num_steps)
    ]
    return " ".join(f"--step-{step}: {to_hex(viridis(place))};" for step, place in enumerate(places))
