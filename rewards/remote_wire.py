"""The bytes of the reward protocol, version 1 (docs/reward-protocol.md): what client and server agree on.

A request is one frame: eight bytes with the length of the header, little-endian; the header, JSON in UTF-8; the images.
Numbers and texts are JSON, images are bytes, nothing is unpickled.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rewards.reward import BadScoresError

VERSION = 1
Format = Literal["raw", "png"]
FORMATS: tuple[str, ...] = get_args(Format)

LARGEST = float(np.finfo(np.float32).max)

_PREFIX_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be scored."""

    images: NDArray[np.uint8]  # [n, H, W, 3] RGB
    prompts: Sequence[str]  # n
    metadata: Sequence[Mapping[str, Any]]  # n


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that one request may hold."""

    max_images: int
    max_bytes: int  # of the whole frame
    max_pixels: int  # of all its images together


class FrameError(ValueError):
    """A frame that is not one: malformed, or of another version."""


class TooLargeError(FrameError):
    """A frame that holds more than the limits allow."""


def encode_question(question: Question, image_format: Format) -> bytes:
    """The frame of a question."""
    images = question.images
    header: dict[str, Any] = {
        "version": VERSION,
        "format": image_format,
        "shape": list(images.shape[:3]),
        "prompts": list(question.prompts),
        "metadata": [dict(entry) for entry in question.metadata],
    }
    if image_format == "raw":
        payload: list[bytes | memoryview] = [np.ascontiguousarray(images).reshape(-1).data]
    else:
        payload = [_png(image) for image in images]
        header["lengths"] = [len(part) for part in payload]
    text = json.dumps(header, allow_nan=False).encode()
    return b"".join([len(text).to_bytes(_PREFIX_BYTES, "little"), text, *payload])


def decode_question(frame: bytes | bytearray, limits: Limits) -> Question:
    """The question in a frame; raw images are read-only views of it.

    Every size is checked before anything of that size is made: a PNG that would unfold beyond its declared shape is
    refused unopened. Raises TooLargeError beyond the limits, FrameError for anything that is not a frame.
    """
    if len(frame) > limits.max_bytes:
        raise TooLargeError(f"expected a frame of at most {limits.max_bytes} bytes; found {len(frame)}")
    start = _PREFIX_BYTES + int.from_bytes(frame[:_PREFIX_BYTES], "little")
    if not _PREFIX_BYTES < start <= len(frame):
        raise FrameError(f"expected a header within {len(frame)} bytes; found its end at {start}")
    header = _header(bytes(frame[_PREFIX_BYTES:start]))
    count, height, width = _shape(header, limits)
    prompts, metadata = _texts(header, count)
    if header.get("format") == "raw":
        images = _raw_images(frame, start, (count, height, width, 3))
    else:
        images = _png_images(memoryview(frame)[start:], header, (count, height, width, 3))
    return Question(images=images, prompts=prompts, metadata=metadata)


def decode_scores(body: bytes, count: int) -> NDArray[np.float32]:
    """The scores [count] float32 in an answer. Raises BadScoresError unless they are that many finite numbers."""
    try:
        answer = json.loads(body)
    except ValueError:
        raise BadScoresError(f"expected an answer in JSON; found {bytes(body[:80])!r}") from None
    if not isinstance(answer, dict) or answer.get("version") != VERSION:
        raise BadScoresError(f"expected an answer of version {VERSION}; found {str(answer)[:80]}")
    scores = answer.get("scores")
    if not isinstance(scores, list) or len(scores) != count:
        found = len(scores) if isinstance(scores, list) else type(scores).__name__
        raise BadScoresError(f"expected {count} scores; found {found}")
    for place, score in enumerate(scores):
        if type(score) not in (int, float) or not -LARGEST <= score <= LARGEST:  # NaN is not, either
            raise BadScoresError(f"expected finite float32 scores; found {score!r} at image {place}")
    return np.array(scores, dtype=np.float32)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise FrameError("expected a header in JSON; found something else") from None
    if not isinstance(header, dict):
        raise FrameError(f"expected a header with keys and values; found {type(header).__name__}")
    if header.get("version") != VERSION:
        raise FrameError(f"expected version {VERSION}; found {str(header.get('version'))[:80]}")
    if header.get("format") not in FORMATS:
        raise FrameError(f"expected a format of {', '.join(FORMATS)}; found {str(header.get('format'))[:80]}")
    return header


def _shape(header: Mapping[str, Any], limits: Limits) -> tuple[int, int, int]:
    shape = header.get("shape")
    if not isinstance(shape, list) or len(shape) != 3 or any(type(size) is not int or size < 1 for size in shape):
        raise FrameError(f"expected a shape [images, height, width]; found {str(shape)[:80]}")
    count, height, width = shape
    if count > limits.max_images:
        raise TooLargeError(f"expected at most {limits.max_images} images; found {count}")
    if count * height * width > limits.max_pixels:
        raise TooLargeError(f"expected at most {limits.max_pixels} pixels; found {count * height * width}")
    return count, height, width


def _texts(header: Mapping[str, Any], count: int) -> tuple[list[str], list[dict[str, Any]]]:
    prompts, metadata = header.get("prompts"), header.get("metadata")
    for name, values, kind in (("prompts", prompts, str), ("metadata", metadata, dict)):
        if not isinstance(values, list) or len(values) != count or not all(isinstance(v, kind) for v in values):
            raise FrameError(f"expected {count} {name}, each a {kind.__name__}; found something else")
    assert isinstance(prompts, list)
    assert isinstance(metadata, list)
    return prompts, metadata


def _raw_images(frame: bytes | bytearray, start: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if len(frame) - start != math.prod(shape):
        raise FrameError(f"expected {math.prod(shape)} bytes of images; found {len(frame) - start}")
    images = np.frombuffer(frame, dtype=np.uint8, offset=start).reshape(shape)
    images.flags.writeable = False
    return images


def _png_images(payload: memoryview, header: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    lengths = header.get("lengths")
    if not isinstance(lengths, list) or any(type(length) is not int or length < 0 for length in lengths):
        raise FrameError("expected the lengths of the images in bytes; found something else")
    if len(lengths) != shape[0] or sum(lengths) != len(payload):
        raise FrameError(f"expected {shape[0]} images in {len(payload)} bytes; found {len(lengths)} in {sum(lengths)}")
    images = np.empty(shape, dtype=np.uint8)
    start = 0
    for place, length in enumerate(lengths):
        images[place] = _unfolded(bytes(payload[start : start + length]), shape[2], shape[1], place)
        start += length
    return images


def _unfolded(data: bytes, width: int, height: int, place: int) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (width, height):
                raise FrameError(
                    f"expected image {place} to be {width}x{height}; found {image.size[0]}x{image.size[1]}"
                )
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise FrameError(f"expected a PNG as image {place}; found: {error}") from error
