"""Plain figures of pictures: what drifts when a policy learns to please a reward instead of a person."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in brightness (ITU-R BT.601)."""


def diversity(images: NDArray[np.uint8]) -> float:
    """The mean over all pairs of images [n, H, W, 3] of their root mean square difference, from 0 to 1; NaN below two.

    sum over pairs of |a - b|^2 is not the mean of the roots, so the pairs are really walked through.
    """
    flat = images.reshape(len(images), -1).astype(np.float32) / 255.0
    distances = [
        float(np.sqrt(np.mean(np.square(flat[i] - flat[j])))) for i in range(len(flat)) for j in range(i + 1, len(flat))
    ]
    return float(np.mean(distances)) if distances else float("nan")


def distance(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """The mean over n images [n, H, W, 3] of the root mean square difference from their counterparts, from 0 to 1."""
    difference = (images.astype(np.float32) - others.astype(np.float32)) / 255.0
    return float(np.sqrt(np.mean(np.square(difference), axis=(1, 2, 3))).mean())


def saturation(images: NDArray[np.uint8]) -> float:
    """The mean saturation of images [n, H, W, 3], (max - min) / max over R, G and B, from 0 to 1; black has none."""
    high = images.max(axis=-1).astype(np.float32)
    low = images.min(axis=-1).astype(np.float32)
    return float(np.mean((high - low) / np.maximum(high, 1.0)))


def sharpness(images: NDArray[np.uint8]) -> float:
    """The mean absolute Laplacian of brightness of images [n, H, W, 3], 0 for a flat one; noise has about the most.

    Only inner pixels count; images without any have 0.
    """
    luma = images.astype(np.float32) @ LUMA.astype(np.float32) / 255.0
    if min(luma.shape[1:]) < 3:
        return 0.0
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return float(np.mean(np.abs(around - 4.0 * luma[:, 1:-1, 1:-1])))
