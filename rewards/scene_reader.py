"""Reads the text of natural pictures: a detector finds its lines, a recogniser reads each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewards.detector import Detector
from rewards.recogniser import Recogniser
from rewards.reward import check_images


@dataclass(frozen=True, slots=True)
class SceneReader:
    """All text of an image, lines joined by spaces in reading order. A Reader."""

    detector: Detector
    recogniser: Recogniser

    def read(self, images: NDArray[np.uint8]) -> list[str]:
        """The text in each of n images [n, H, W, 3] uint8 RGB; empty where no line is found."""
        check_images(images)
        return [self._read_one(image) for image in images]

    def _read_one(self, image: NDArray[np.uint8]) -> str:
        crops = [image[box.top : box.bottom, box.left : box.right] for box in self.detector.find(image)]
        texts = [self.recogniser.read(crop[np.newaxis])[0] for crop in crops]
        return " ".join(text for text in texts if text)
