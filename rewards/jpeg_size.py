"""The JPEG-size reward: how many bits a picture needs. Cheap, and without any network."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

JPEG_QUALITY = 95

# Nothing before the scan holds this pair: Pillow's header is the same tables for every image of a size.
_START_OF_SCAN = b"\xff\xda"


@dataclass(frozen=True, slots=True)
class JpegSize:
    """Bits per pixel of the image as JPEG at quality 95, negated where smaller is wanted.

    Compressibility and incompressibility of Black et al., "Training diffusion models with reinforcement
    learning" (2305.13301), counted per pixel and without the file's header: that is the same 600-odd bytes
    for every picture, which at 32x16 would be 9.5 bits per pixel and at 1024x1024 nothing. Black-and-white
    noise, about the worst case, needs 11.4.
    """

    direction: Literal["smaller", "larger"]
    """What is rewarded: "smaller" gives scores from -12 to 0, "larger" from 0 to 12."""

    name: ClassVar[str] = "jpeg_size"
    required_metadata: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raise ValueError for a direction that does not exist."""
        if self.direction not in ("smaller", "larger"):
            raise ValueError(
                f"reward 'jpeg_size': expected direction 'smaller' or 'larger'; found {self.direction!r}; "
                "change it under rewards[i].options"
            )

    @property
    def range(self) -> tuple[float, float]:
        """(-12, 0) or (0, 12) bits per pixel."""
        return (-12.0, 0.0) if self.direction == "smaller" else (0.0, 12.0)

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32, in bits per pixel, of images [n, H, W, 3] uint8."""
        sign = -1.0 if self.direction == "smaller" else 1.0
        return np.array([sign * bits_per_pixel(image) for image in images], dtype=np.float32)


def bits_per_pixel(image: NDArray[np.uint8]) -> float:
    """The bits per pixel of the image [H, W, 3] uint8 as JPEG at quality 95, from the start of its scan."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    data = buffer.getvalue()
    scan_bytes = len(data) - data.index(_START_OF_SCAN)
    num_pixels: int = image.shape[0] * image.shape[1]
    return 8 * scan_bytes / num_pixels
