"""A PP-OCR text detector on onnxruntime: where in a picture there is text.

Differentiable binarization, Liao et al. (1911.08947): the network gives each pixel a probability of lying in the core
of a line of text; connected cores are enlarged by what the training shrank them, area * ratio / perimeter. Constants
are those of PP-OCRv6's inference.yml. Boxes stand upright: tilted lines are found, and read as badly as an upright box
around them allows.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rewards.onnx_session import open_session

THRESHOLD, BOX_THRESHOLD, UNCLIP_RATIO = 0.2, 0.4, 1.4
MIN_SIDE = 3  # pixels of the network's input; smaller cores are specks
STRIDE = 32  # the network's sides are multiples of it
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True, slots=True)
class Box:
    """An upright box in pixels; `right` and `bottom` lie just outside."""

    left: int
    top: int
    right: int
    bottom: int


class Detector:
    """Finds lines of text, image by image."""

    def __init__(self, network: Path, threads: int = 1, side: int = 736) -> None:
        """network: an .onnx file from [1, 3, H, W] to [1, 1, H, W]. threads: at least 1.

        side: images are enlarged until their shorter side has as many pixels; more finds smaller text and costs more.
        Raises ValueError for threads or a side that cannot be.
        """
        if not isinstance(side, int) or side < STRIDE:
            raise ValueError(f"expected side of at least {STRIDE}; found {side!r}; change it under rewards[i].options")
        self._session = open_session(network, threads)
        self._input_name: str = self._session.get_inputs()[0].name
        self._side = side

    def find(self, image: NDArray[np.uint8]) -> list[Box]:
        """The boxes of the lines of text in an image [H, W, 3] uint8 RGB, in reading order."""
        height, width = image.shape[:2]
        scale = max(1.0, self._side / min(height, width))
        size = tuple(max(STRIDE, round(length * scale / STRIDE) * STRIDE) for length in (width, height))
        resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
        normal = ((resized[:, :, ::-1] / 255.0 - MEAN) / STD).transpose(2, 0, 1)
        (chances,) = self._session.run(None, {self._input_name: np.ascontiguousarray(normal[np.newaxis])})
        return in_reading_order(boxes_of(chances[0, 0], width / size[0], height / size[1], width, height))


def boxes_of(chances: NDArray[np.float32], x_scale: float, y_scale: float, width: int, height: int) -> list[Box]:
    """The boxes of a map [h, w] of probabilities, in an image of width and height: one of the map's pixels has
    x_scale x y_scale of the image's.
    """
    boxes = []
    for core in components(chances > THRESHOLD):
        rows, columns = core
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        if min(bottom - top, right - left) < MIN_SIDE or chances[rows, columns].mean() < BOX_THRESHOLD:
            continue
        grown = (bottom - top) * (right - left) * UNCLIP_RATIO / (2.0 * (bottom - top + right - left))
        boxes.append(
            Box(
                left=max(0, math.floor((left - grown) * x_scale)),
                top=max(0, math.floor((top - grown) * y_scale)),
                right=min(width, math.ceil((right + grown) * x_scale)),
                bottom=min(height, math.ceil((bottom + grown) * y_scale)),
            )
        )
    return boxes


def components(mask: NDArray[np.bool_]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The rows and columns of each connected region of a mask [h, w], neighbours at corners included."""
    runs: list[tuple[int, int, int]] = []  # row, first column, column behind the last
    parent: list[int] = []

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above: list[int] = []
    for row in range(len(mask)):
        edges = np.flatnonzero(np.diff(mask[row].astype(np.int8), prepend=0, append=0))
        here = []
        for first, behind in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            run = len(runs)
            runs.append((row, first, behind))
            parent.append(run)
            here.append(run)
            for other in above:
                if runs[other][1] <= behind and runs[other][2] >= first:
                    parent[root(other)] = root(run)
        above = here
    members: dict[int, list[int]] = {}
    for run in range(len(runs)):
        members.setdefault(root(run), []).append(run)
    return [_pixels([runs[run] for run in region]) for region in members.values()]


def _pixels(runs: list[tuple[int, int, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows = np.concatenate([np.full(behind - first, row) for row, first, behind in runs])
    columns = np.concatenate([np.arange(first, behind) for _, first, behind in runs])
    return rows, columns


def in_reading_order(boxes: list[Box]) -> list[Box]:
    """From top to bottom, and from left to right within a line: boxes of which one's middle lies beside the other."""
    lines: list[list[Box]] = []
    for box in sorted(boxes, key=lambda box: (box.top + box.bottom, box.left)):
        middle = (box.top + box.bottom) / 2
        last = lines[-1][-1] if lines else None
        if last is not None and last.top <= middle < last.bottom:
            lines[-1].append(box)
        else:
            lines.append([box])
    return [box for line in lines for box in sorted(line, key=lambda box: box.left)]
