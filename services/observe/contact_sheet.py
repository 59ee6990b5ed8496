"""A contact sheet: many small pictures in one, each over a caption."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

PAPER, INK = "#ffffff", "#1c1f24"
SIDE, GAP, TEXT = 144, 12, 14
CAPTION = 2 * (TEXT + 4)
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


def compose_sheet(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Pictures of at most SIDE pixels in rows of COLUMNS, in their order, each over its caption of up to two lines."""
    columns = min(COLUMNS, max(1, len(pictures)))
    rows = max(1, math.ceil(len(pictures) / columns))
    width, height = SIDE + GAP, SIDE + CAPTION + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=TEXT)
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = GAP + place % columns * width, GAP + place // columns * height
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
        for line, text in enumerate(caption.split("\n")[:2]):
            fitted = _fitted(text, font)
            draw.text((left + SIDE / 2, top + SIDE + 4 + line * (TEXT + 4)), fitted, INK, font=font, anchor="ma")
    return sheet


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= SIDE:
        return text
    while text and font.getlength(f"{text}…") > SIDE:
        text = text[:-1]
    return f"{text}…"
