"""Pictures of short texts, and both real recognisers."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rewards.judge import build_judge
from rewards.ocr import build_tiny_recogniser
from rewards.recogniser import Recogniser

Draw = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Draws each text in the middle of a white image: uint8 [n, 16, 32, 3]."""

    def draw_texts(texts: Sequence[str], colour: str = "black", font_size: int = 13) -> NDArray[np.uint8]:
        font = ImageFont.load_default(size=font_size)
        images = []
        for text in texts:
            image = Image.new("RGB", (32, 16), "white")
            ImageDraw.Draw(image).text((16, 8), text, font=font, fill=colour, anchor="mm")
            images.append(np.asarray(image))
        return np.stack(images)

    return draw_texts


@pytest.fixture(scope="session")
def tiny() -> Recogniser:
    return build_tiny_recogniser()


@pytest.fixture(scope="session")
def judge() -> Recogniser:
    return build_judge()
