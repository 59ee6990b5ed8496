"""Evaluation: which images say exactly what they should."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rewards.reward import Reader


def exact_match(reader: Reader, images: NDArray[np.uint8], targets: Sequence[str]) -> NDArray[np.bool_]:
    """Whether the text read from each image is its target: [n] bool.

    images [n, H, W, 3] uint8 RGB; targets of length n. Upper and lower case differ; whitespace around either
    text does not count, whitespace inside does. Raises ValueError if there is not one target per image.
    """
    if len(targets) != len(images):
        raise ValueError(f"expected {len(images)} targets, one per image; found {len(targets)}")
    texts = reader.read(images)
    matches = [text.strip() == target.strip() for text, target in zip(texts, targets, strict=True)]
    return np.array(matches, dtype=np.bool_)
