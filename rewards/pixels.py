"""From uint8 images to what CLIP-like networks are fed, with Pillow alone.

Resizing is Pillow's bicubic, as in the published preprocessing of every network here. Values are normalised by
OpenAI CLIP's mean and standard deviation, which all of them share.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Fit = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
"""Brings one image [H, W, 3] to [size, size, 3]."""


def network_pixels(images: NDArray[np.uint8], size: int, fit: Fit) -> NDArray[np.float32]:
    """The images [n, H, W, 3] uint8 as a network takes them: [n, 3, size, size] float32, normalised."""
    fitted = np.stack([fit(image, size) for image in images]).astype(np.float32)
    mean, std = np.array(CLIP_MEAN, np.float32), np.array(CLIP_STD, np.float32)
    normalised = (fitted / np.float32(255) - mean) / std
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def cropped(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The middle square of the image after its shorter side was resized to `size`.

    Where the margin is odd, the extra pixel is cut at the end, as in transformers; torchvision rounds half to even.
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    new_height, new_width = int(size * height / shorter), int(size * width / shorter)
    resized = _resized(image, new_height, new_width)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return resized[top : top + size, left : left + size]


def letterboxed(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The whole image, its longer side resized to `size`, in the middle of a black square."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new_height, new_width = round(height * scale), round(width * scale)
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    square[top : top + new_height, left : left + new_width] = _resized(image, new_height, new_width)
    return square


def _resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
