"""The quickstart's world: two-digit numbers in a colour, drawn with Pillow's own font on 32 x 16 white pixels. As in
any scraped collection, many of the pictures are out of focus, and nothing in the prompt tells which.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDTH, HEIGHT = 32, 16
COLOURS = {
    "red": (214, 32, 32),
    "green": (16, 138, 48),
    "blue": (32, 64, 216),
    "purple": (140, 32, 168),
    "brown": (132, 76, 16),
    "black": (16, 16, 16),
}
NUMBERS = tuple(str(n) for n in range(10, 100))
HELD_OUT = tuple(number for number in NUMBERS if (2 * int(number[0]) + int(number[1])) % 5 == 0)
"""A fifth of the numbers, never seen by the RL run, only by its evaluation; every digit is seen at both places in the
others. The base model's recipe sees all numbers."""

BLUR_RADIUS = 2.4
"""Gaussian blur of a picture out of focus, in pixels: the readers read one in ten of them."""


def prompt(number: str, colour: str) -> str:
    """The prompt for one picture."""
    return f"write {number} in {colour}"


def draw(number: str, colour: str, rng: np.random.Generator, out_of_focus: float) -> NDArray[np.uint8]:
    """One picture [16, 32, 3] uint8: `number` in `colour`, its place jittered by `rng`, blurred with the probability
    `out_of_focus`.
    """
    font = ImageFont.load_default(size=14)
    canvas = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(canvas)
    left, top, right, bottom = pen.textbbox((0, 0), number, font=font)
    x = round((WIDTH - (right - left)) / 2 - left) + int(rng.integers(-2, 3))
    y = round((HEIGHT - (bottom - top)) / 2 - top) + int(rng.integers(-1, 2))
    pen.text((x, y), number, fill=COLOURS[colour], font=font)
    if rng.random() < out_of_focus:
        canvas = canvas.filter(ImageFilter.GaussianBlur(BLUR_RADIUS))
    return np.asarray(canvas, dtype=np.uint8)


def batch(count: int, rng: np.random.Generator, out_of_focus: float) -> tuple[list[str], NDArray[np.uint8]]:
    """`count` random prompts and their pictures [count, 16, 32, 3] uint8."""
    numbers = [NUMBERS[i] for i in rng.integers(0, len(NUMBERS), count)]
    colours = [list(COLOURS)[i] for i in rng.integers(0, len(COLOURS), count)]
    pictures = np.stack([draw(n, c, rng, out_of_focus) for n, c in zip(numbers, colours, strict=True)])
    return [prompt(n, c) for n, c in zip(numbers, colours, strict=True)], pictures
