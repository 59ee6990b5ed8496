"""A contact sheet: many small pictures in one, each over a caption, under a title."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

PAPER, INK = "#ffffff", "#1c1f24"
SIDE, GAP, TEXT = 144, 12, 14
LINE = TEXT + 4
COLUMNS = 8


def thumbnail(picture: Image.Image) -> Image.Image:
    """A picture whose longer side is at most SIDE pixels; a smaller one grows by a whole factor, with hard edges."""
    longer = max(picture.size)
    if longer > SIDE:
        small = picture.copy()
        small.thumbnail((SIDE, SIDE))
        return small
    factor = SIDE // longer
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def compose_sheet(title: str, pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Pictures of at most SIDE pixels in rows of COLUMNS, in their order, each over the lines of its caption."""
    columns = min(COLUMNS, max(1, len(pictures)))
    rows = max(1, math.ceil(len(pictures) / columns))
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    width, height, top = SIDE + GAP, SIDE + lines * LINE + 2 * GAP, LINE + 2 * GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + top), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=TEXT)
    draw.text((GAP, GAP), _fitted(title, font, sheet.width - 2 * GAP), INK, font=font)
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, upper = GAP + place % columns * width, top + place // columns * height
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, upper + (SIDE - picture.height) // 2))
        for line, text in enumerate(caption.split("\n")):
            where = (left + SIDE / 2, upper + SIDE + 4 + line * LINE)
            draw.text(where, _fitted(text, font, SIDE), INK, font=font, anchor="ma")
    return sheet


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, without its middle where it is too wide: names differ at their ends."""
    fitted, kept = text, len(text)
    while font.getlength(fitted) > width and kept:
        kept -= 1
        fitted = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return fitted
