import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rewards.remote_wire import (
    FrameError,
    Limits,
    Question,
    TooLargeError,
    decode_question,
    decode_scores,
    encode_question,
)
from rewards.reward import BadScoresError

LIMITS = Limits(max_images=4, max_bytes=100_000, max_pixels=10_000)


def question(count: int = 2, height: int = 5, width: int = 7) -> Question:
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return Question(images=images, prompts=["grün", "two"][:count], metadata=[{"target": "1"}, {"n": [1, 2]}][:count])


def frame(payload: bytes = b"", **changes: object) -> bytes:
    header = {"version": 1, "format": "raw", "shape": [1, 2, 2], "prompts": ["p"], "metadata": [{}], **changes}
    text = json.dumps({key: value for key, value in header.items() if value is not None}).encode()
    return len(text).to_bytes(8, "little") + text + payload


@pytest.mark.parametrize("image_format", ["raw", "png"])
def test_what_is_asked_arrives_unchanged(image_format) -> None:
    asked = question()
    got = decode_question(encode_question(asked, image_format), LIMITS)
    np.testing.assert_array_equal(got.images, asked.images)
    assert (got.prompts, got.metadata) == (asked.prompts, asked.metadata)


def test_raw_images_are_not_copied_and_cannot_be_written_to() -> None:
    data = bytearray(encode_question(question(), "raw"))
    images = decode_question(data, LIMITS).images
    assert not images.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def bomb(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_png_that_would_unfold_beyond_its_declared_shape_is_refused_before_it_unfolds() -> None:
    data = bomb(3000)
    small = {"format": "png", "shape": [1, 10, 10], "lengths": [len(data)]}
    with pytest.raises(FrameError, match="expected image 0 to be 10x10; found 3000x3000"):
        decode_question(frame(data, **small), LIMITS)
    with pytest.raises(TooLargeError, match="expected at most 10000 pixels; found 9000000"):
        decode_question(frame(data, **{**small, "shape": [1, 3000, 3000]}), LIMITS)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"shape": [5, 1, 1]}, "at most 4 images; found 5"),
        ({"shape": [1, 101, 100]}, "at most 10000 pixels; found 10100"),
    ],
)
def test_what_exceeds_the_limits_is_too_large(changes, complaint) -> None:
    with pytest.raises(TooLargeError, match=complaint):
        decode_question(frame(bytes(12), **changes), LIMITS)
    with pytest.raises(TooLargeError, match="at most 10 bytes"):
        decode_question(frame(bytes(12)), Limits(max_images=4, max_bytes=10, max_pixels=100))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "expected a header within 0 bytes"),
        ((2**63).to_bytes(8, "little") + b"{}", "expected a header within 10 bytes"),
        ((2).to_bytes(8, "little") + b"{x", "expected a header in JSON"),
        ((2).to_bytes(8, "little") + b"[]", "expected a header with keys and values"),
        ((40_000).to_bytes(8, "little") + b"[" * 40_000, "expected a header in JSON"),
        (frame(version=2), "expected version 1; found 2"),
        (frame(format="pickle"), "expected a format of raw, png; found pickle"),
        (frame(shape=[1, 2]), "expected a shape"),
        (frame(shape=[1, 2, -2]), "expected a shape"),
        (frame(shape=[1, 2, True]), "expected a shape"),
        (frame(prompts=[]), "expected 1 prompts"),
        (frame(prompts=[3]), "expected 1 prompts, each a str"),
        (frame(metadata=None), "expected 1 metadata"),
        (frame(bytes(11)), "expected 12 bytes of images; found 11"),
        (frame(b"abc", format="png"), "expected the lengths"),
        (frame(b"abc", format="png", lengths=[-1]), "expected the lengths"),
        (frame(b"abc", format="png", lengths=[1, 2]), "expected 1 images in 3 bytes; found 2 in 3"),
        (frame(b"abc", format="png", lengths=[3]), "expected a PNG as image 0"),
        (frame(bomb(2)[:-30], format="png", lengths=[len(bomb(2)) - 30]), "expected a PNG as image 0"),
    ],
)
def test_what_is_no_frame_is_refused_with_what_is_wrong(data, complaint) -> None:
    with pytest.raises(FrameError, match=complaint):
        decode_question(data, LIMITS)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_decoder_raise_anything_else(data: bytes) -> None:
    for candidate in (data, frame(data), frame(data, format="png", lengths=[len(data)])):
        with contextlib.suppress(FrameError):
            decode_question(candidate, LIMITS)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"<html>", "expected an answer in JSON"),
        (b"[]", "expected an answer of version 1"),
        (b'{"version": 2, "scores": [1, 2]}', "expected an answer of version 1"),
        (b'{"version": 1}', "expected 2 scores; found NoneType"),
        (b'{"version": 1, "scores": [1]}', "expected 2 scores; found 1"),
        (b'{"version": 1, "scores": [1, NaN]}', "found nan at image 1"),
        (b'{"version": 1, "scores": [Infinity, 1]}', "found inf at image 0"),
        (b'{"version": 1, "scores": [1, null]}', "found None at image 1"),
        (b'{"version": 1, "scores": [1, "2"]}', "found '2' at image 1"),
        (b'{"version": 1, "scores": [true, 1]}', "found True at image 0"),
        (b'{"version": 1, "scores": [1e300, 1]}', "found 1e\\+300 at image 0"),
        (b'{"version": 1, "scores": [1' + b"0" * 400 + b", 1]}", "at image 0"),
    ],
)
def test_an_answer_that_is_not_one_finite_number_per_image_is_never_turned_into_one(body, complaint) -> None:
    with pytest.raises(BadScoresError, match=complaint):
        decode_scores(body, 2)


def test_good_scores_arrive_as_float32() -> None:
    scores = decode_scores(b'{"version": 1, "scores": [0.25, -7]}', 2)
    assert scores.dtype == np.float32
    assert scores.tolist() == [0.25, -7]
