"""Text in natural pictures: found, put in reading order, and read."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from rewards.build import build
from rewards.detector import Box, boxes_of, components, in_reading_order
from rewards.ocr import build_tiny_detector


@pytest.fixture(scope="module")
def scene():
    """scene(((x, y), text), ..., size=40) -> image [512, 512, 3]: text somewhere on a coloured cloud."""

    def draw(*texts, size: int = 40) -> np.ndarray:
        numbers = np.random.default_rng(0).integers(90, 200, (16, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(numbers).resize((512, 512), Image.Resampling.BICUBIC)
        pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
        for place, text in texts:
            pen.text(place, text, fill="black", font=font)
        return np.asarray(picture)

    return draw


@pytest.fixture(scope="module")
def reward():
    return build("text_rendering", {"layout": "scene"})


@pytest.mark.parametrize(
    ("texts", "read"),
    [
        ([((60, 100), "OPEN")], "OPEN"),
        ([((300, 430), "Sale 50")], "Sale 50"),
        ([((60, 100), "Fresh coffee"), ((200, 350), "every day")], "Fresh coffee every day"),
        ([((30, 205), "left"), ((300, 200), "right")], "left right"),
    ],
)
def test_text_anywhere_in_a_picture_is_found_and_read_in_order(scene, reward, texts, read) -> None:
    image = scene(*texts)
    assert reward.reader.read(image[np.newaxis]) == [read]
    assert reward(image[np.newaxis], [""], [{"target": read}]).tolist() == [1.0]


def test_without_a_detector_the_same_text_cannot_be_read(scene) -> None:
    image = scene(((60, 100), "Fresh coffee"), ((200, 350), "every day"))
    line = build("text_rendering", {})
    assert line(image[np.newaxis], [""], [{"target": "Fresh coffee every day"}])[0] < 0.5


def test_a_box_lies_tightly_around_its_text(scene) -> None:
    (box,) = build_tiny_detector().find(scene(((60, 100), "OPEN")))
    width = ImageFont.load_default(40).getlength("OPEN")
    assert abs(box.left - 60) < 12
    assert abs(box.right - (60 + width)) < 12
    assert box.top + 8 > 100
    assert box.bottom < 160


def test_a_flat_picture_has_no_text(reward) -> None:
    assert reward.reader.read(np.full((2, 256, 256, 3), 120, np.uint8)) == ["", ""]


def test_regions_are_connected_also_at_corners_and_around_bends() -> None:
    drawn = ["##...#", "..#..#", "...#.#", "#....#", "#.####"]
    mask = np.array([[cell == "#" for cell in row] for row in drawn])
    found = sorted(len(rows) for rows, _ in components(mask))
    assert found == [2, 4, 8]
    for rows, columns in components(mask):
        assert mask[rows, columns].all()
    assert components(np.zeros((3, 3), bool)) == []


def test_a_core_grows_by_what_the_training_shrank_it() -> None:
    chances = np.zeros((64, 64), np.float32)
    chances[20:30, 10:50] = 0.9
    (box,) = boxes_of(chances, 1.0, 1.0, 64, 64)
    grown = 10 * 40 * 1.4 / (2 * (10 + 40))
    assert box == Box(int(10 - grown), int(np.floor(20 - grown)), int(np.ceil(50 + grown)), int(np.ceil(30 + grown)))
    (half,) = boxes_of(chances, 0.5, 0.5, 32, 32)
    assert half.right - half.left <= (box.right - box.left) // 2 + 2


def test_specks_and_unlikely_regions_are_left_out() -> None:
    chances = np.zeros((64, 64), np.float32)
    chances[5:7, 5:40] = 0.9
    chances[20:30, 10:50] = 0.3
    assert boxes_of(chances, 1.0, 1.0, 64, 64) == []


def test_boxes_read_from_top_to_bottom_and_from_left_to_right_in_a_line() -> None:
    right, left, below = Box(50, 10, 90, 30), Box(5, 12, 40, 33), Box(5, 50, 90, 70)
    assert in_reading_order([below, right, left]) == [left, right, below]
    assert in_reading_order([]) == []


@pytest.mark.parametrize(("option", "value"), [("layout", "page"), ("side", 8)])
def test_an_option_that_cannot_be_is_told(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        build("text_rendering", {"layout": "scene", option: value})
