"""Pictures as data URLs, within the size that a judge is willing to read."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rewards.reward import RewardError


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """What is sent at most for one picture."""

    max_side: int  # pixels; a larger picture is shrunk
    max_bytes: int  # of the PNG file; a larger one is an error


def data_url(image: NDArray[np.uint8], limits: PictureLimits) -> str:
    """The image [H, W, 3] uint8 as a PNG in a data URL.

    A picture whose longer side is beyond the limit is shrunk to it. Lossless, so that equal pixels are equal questions.
    Raises RewardError where the file is still beyond the limit.
    """
    picture = Image.fromarray(image)
    scale = limits.max_side / max(picture.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = buffer.getvalue()
    if len(data) > limits.max_bytes:
        raise RewardError(
            f"expected a picture of at most {limits.max_bytes} bytes as PNG; found {len(data)}; "
            "change judge.max_side or judge.max_picture_bytes under rewards[i].options"
        )
    return "data:image/png;base64," + base64.b64encode(data).decode()
