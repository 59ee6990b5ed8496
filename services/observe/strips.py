"""Image strips: the same prompts and seeds, one row per prompt, one column per denoising step.

    compose_strip          one version of the weights
    compose_before_after   several versions side by side, under headings

Tiny images are enlarged by a whole factor with hard pixel edges, large ones shrunk; a strip looks the same for a
32 x 16 toy and a 1024 x 1024 model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, MUTED, LINE = "#ffffff", "#1c1f24", "#6b7280", "#d9dce1"
MARGIN, GAP, PANEL_GAP = 32, 12, 36


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StripRow:
    """One prompt's images."""

    caption: str  # the prompt
    images: NDArray[np.uint8]  # [K, H, W, 3] the one-step predictions of step 0 to K - 1
    notes: tuple[str, ...] = ()  # K lines, one under each image, e.g. what the reader read; empty: none


@dataclass(frozen=True, slots=True, kw_only=True)
class StripPanel:
    """One version's rows under a heading."""

    heading: str
    rows: tuple[StripRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Sizes in pixels of one kind of strip."""

    side_min: int  # a tiny image is enlarged by the whole factor that brings its longer side closest to this
    side_max: int  # an image whose longer side is above this is shrunk to it; at least 1.5 side_min
    caption_width: int
    text: int  # font size of captions and column labels; notes are a little smaller
    title: int  # font size of the title


STRIP = Look(side_min=192, side_max=288, caption_width=208, text=18, title=24)
BEFORE_AFTER = Look(side_min=128, side_max=192, caption_width=232, text=21, title=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """Where things stand on a strip: everything in pixels, places from the top left."""

    cell: tuple[int, int]  # width, height of one shown image
    columns: int
    panels: int
    rows: int
    notes: bool
    look: Look
    head: int  # height of title, headings and column labels

    @property
    def row_height(self) -> int:
        captioned = self.cell[1] + (self.look.text + 8 if self.notes else 0)
        return max(captioned, 2 * self.look.text + 8) + GAP + 4

    @property
    def panel_width(self) -> int:
        return self.columns * (self.cell[0] + GAP) - GAP

    @property
    def size(self) -> tuple[int, int]:
        width = MARGIN + self.look.caption_width + self.panels * (self.panel_width + PANEL_GAP) - PANEL_GAP + MARGIN
        return width, self.head + self.rows * self.row_height + MARGIN - GAP

    def place(self, panel: int, row: int, column: int) -> tuple[int, int]:
        left = MARGIN + self.look.caption_width + panel * (self.panel_width + PANEL_GAP)
        return left + column * (self.cell[0] + GAP), self.head + row * self.row_height


def compose_strip(rows: Sequence[StripRow], columns: Sequence[str], title: str) -> Image.Image:
    """One row per prompt, one column per step; `columns` are the K labels above them."""
    return _compose([StripPanel(heading="", rows=tuple(rows))], columns, title, STRIP)


def compose_before_after(panels: Sequence[StripPanel], columns: Sequence[str], title: str) -> Image.Image:
    """The panels side by side, e.g. update 0, middle and end; all hold the same prompts in the same order."""
    return _compose(panels, columns, title, BEFORE_AFTER)


def strip_path(folder: Path, update: int) -> Path:
    """Where the strip of an update stands, so that names sort by update."""
    return folder / f"update_{update:06d}.png"


def legible_size(width: int, height: int, look: Look = STRIP) -> tuple[int, int]:
    """Width and height at which an image is shown: a whole multiple of a tiny one, a large one shrunk."""
    longer = max(width, height)
    factor = round(look.side_min / longer)
    if factor > 1:
        return width * factor, height * factor
    shrink = min(1.0, look.side_max / longer)
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def _compose(panels: Sequence[StripPanel], columns: Sequence[str], title: str, look: Look) -> Image.Image:
    _check(panels, len(columns))
    height, width = panels[0].rows[0].images.shape[1:3]
    headed = any(panel.heading for panel in panels)
    grid = _Grid(
        cell=legible_size(width, height, look),
        columns=len(columns),
        panels=len(panels),
        rows=len(panels[0].rows),
        notes=any(any(row.notes) for panel in panels for row in panel.rows),
        look=look,
        head=MARGIN + look.title + 24 + (look.text + 18 if headed else 0) + look.text + 14,
    )
    canvas = Image.new("RGB", grid.size, PAPER)
    pen = ImageDraw.Draw(canvas)
    _draw_head(pen, grid, panels, columns, title)
    for index, row in enumerate(panels[0].rows):
        _draw_caption(pen, grid, index, row.caption)
    for number, panel in enumerate(panels):
        for index, row in enumerate(panel.rows):
            _draw_row(canvas, pen, grid, (number, index), row)
    return canvas


def _check(panels: Sequence[StripPanel], num_columns: int) -> None:
    if not panels or not panels[0].rows:
        raise ValueError("a strip needs at least one row")
    captions = [row.caption for row in panels[0].rows]
    shape = (num_columns, *panels[0].rows[0].images.shape[1:3], 3)
    for panel in panels:
        if [row.caption for row in panel.rows] != captions:
            raise ValueError(f"panel {panel.heading!r}: expected the prompts of the first panel in the same order")
        for row in panel.rows:
            if row.images.dtype != np.uint8 or row.images.shape != shape:
                raise ValueError(
                    f"row {row.caption!r}: expected images uint8 {shape}, found {row.images.dtype} {row.images.shape}"
                )
            if row.notes and len(row.notes) != num_columns:
                raise ValueError(f"row {row.caption!r}: expected {num_columns} notes, found {len(row.notes)}")


def _draw_head(
    pen: ImageDraw.ImageDraw, grid: _Grid, panels: Sequence[StripPanel], columns: Sequence[str], title: str
) -> None:
    look = grid.look
    bold = _font(look.title, bold=True)
    pen.text((MARGIN, MARGIN - 6), _fit(title, bold, grid.size[0] - 2 * MARGIN), INK, bold)
    small = _font(look.text - 3)
    label_top = grid.head - look.text - 14
    for number, panel in enumerate(panels):
        left, _ = grid.place(number, 0, 0)
        if panel.heading:
            bold = _font(look.text, bold=True)
            top = label_top - look.text - 18
            pen.text((left, top), _fit(panel.heading, bold, grid.panel_width), INK, bold)
            pen.line((left, label_top - 10, left + grid.panel_width, label_top - 10), fill=LINE, width=2)
        for column, label in enumerate(columns):
            left, _ = grid.place(number, 0, column)
            pen.text((left, label_top), _fit(label, small, grid.cell[0]), MUTED, small)


def _draw_caption(pen: ImageDraw.ImageDraw, grid: _Grid, row: int, caption: str) -> None:
    font = _font(grid.look.text)
    top = grid.place(0, row, 0)[1]
    line_height = grid.look.text + 6
    most = max(1, (grid.row_height - GAP) // line_height)
    for number, line in enumerate(_wrapped(caption, font, grid.look.caption_width - 20, most)):
        pen.text((MARGIN, top + number * line_height), line, INK, font)


def _draw_row(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, grid: _Grid, place: tuple[int, int], row: StripRow
) -> None:
    width, height = grid.cell
    font = _font(grid.look.text - 3)
    for column, pixels in enumerate(row.images):
        left, top = grid.place(*place, column)
        enlarged = width >= pixels.shape[1]
        resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
        canvas.paste(Image.fromarray(pixels).resize(grid.cell, resampling), (left, top))
        pen.rectangle((left - 1, top - 1, left + width, top + height), outline=LINE)
        if row.notes:
            pen.text((left, top + height + 4), _fit(_drawable(row.notes[column], font), font, width), MUTED, font)


@lru_cache(maxsize=16)
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and knows Greek letters and arrows."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def _drawable(text: str, font: ImageFont.FreeTypeFont) -> str:
    """The text with a question mark for every character that the font lacks: readers see characters in any blot."""
    missing = bytes(font.getmask("\uffff"))
    return "".join("?" if ord(letter) > 127 and bytes(font.getmask(letter)) == missing else letter for letter in text)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """The text in at most `most` lines of `width` pixels, the last one cut where it does not fit."""
    lines = [""]
    words = text.split()
    for number, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {' '.join(words[number:])}"
            break
    return [_fit(line, font, width) for line in lines]
