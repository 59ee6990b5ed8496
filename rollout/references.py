"""Reference images, which image-conditioned models are given beside a prompt. No torch."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

SIDE_MIN = 64
"""Pixels of the shorter side, at least, and"""
ASPECT_MAX = 8.0
"""of the longer one in widths of the shorter, at most: what FLUX.2's own pipeline takes."""


def open_reference(path: str) -> Image.Image:
    """The image at a path. ValueError naming the path for what is none, or none that a model takes."""
    try:
        with Image.open(Path(path)) as image:
            image.load()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"expected a reference image at {path}; found: {error}") from error
    short, long = sorted(image.size)
    if short < SIDE_MIN or long > ASPECT_MAX * short:
        raise ValueError(
            f"{path}: expected a reference image of at least {SIDE_MIN} pixels a side, one at most {ASPECT_MAX:g} "
            f"times the other, found {image.width} x {image.height}"
        )
    return image
