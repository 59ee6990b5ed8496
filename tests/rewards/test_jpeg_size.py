import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rewards.jpeg_size import JpegSize, bits_per_pixel


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def file_bits(image: NDArray[np.uint8]) -> int:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return 8 * len(buffer.getvalue())


def test_noise_needs_more_bits_than_a_text_and_a_text_more_than_nothing(draw) -> None:
    images = np.concatenate([noise(1, 16, 32), draw(["42", ""])])
    scores = JpegSize("larger")(images, ["p"] * 3, [{}] * 3)
    assert scores[0] > scores[1] > scores[2] > 0


def test_smaller_is_larger_negated(draw) -> None:
    images = draw(["42", "17", ""])
    smaller = JpegSize("smaller")(images, ["p"] * 3, [{}] * 3)
    larger = JpegSize("larger")(images, ["p"] * 3, [{}] * 3)
    np.testing.assert_array_equal(smaller, -larger)
    assert smaller.dtype == np.float32


def test_scores_of_one_size_differ_as_the_sizes_of_the_files_do(draw) -> None:
    images = np.concatenate([noise(1, 16, 32), draw(["42"])])
    bits = [file_bits(image) for image in images]
    difference = bits_per_pixel(images[0]) - bits_per_pixel(images[1])
    assert difference == pytest.approx((bits[0] - bits[1]) / (16 * 32))


def test_a_texture_needs_about_as_many_bits_per_pixel_on_a_small_canvas_as_on_a_large_one() -> None:
    assert bits_per_pixel(noise(64, 64)) == pytest.approx(bits_per_pixel(noise(512, 512)), rel=0.02)


@pytest.mark.parametrize("direction", ["smaller", "larger"])
def test_the_declared_range_holds_the_flattest_and_the_wildest_pictures(direction) -> None:
    reward = JpegSize(direction)
    pictures = np.stack([noise(128, 128), noise(128, 128) // 128 * 255, np.zeros((128, 128, 3), np.uint8)])
    scores = reward(pictures, ["p"] * 3, [{}] * 3)
    low, high = reward.range
    assert ((low < scores) & (scores < high)).all()
    assert np.ptp(scores) > 0.8 * (high - low), "a far wider range would make its floor meaningless"


def test_a_direction_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="expected direction 'smaller' or 'larger'; found 'small'"):
        JpegSize("small")
