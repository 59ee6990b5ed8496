import numpy as np
import pytest
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from rewards.pixels import CLIP_MEAN, CLIP_STD, cropped, letterboxed, network_pixels

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(64, 64), (40, 57), (91, 33), (224, 224), (8, 8)])
def test_cropped_pixels_are_those_of_the_transformers_processor(shape: tuple[int, int]) -> None:
    images = RANDOM.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    expected = processor(list(images), return_tensors="np")["pixel_values"]
    got = network_pixels(images, 32, cropped)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "top", "left"), [(16, 32, 8, 0), (32, 16, 0, 8), (32, 32, 0, 0)])
def test_letterboxing_keeps_the_whole_picture_in_the_middle_of_black(height, width, top, left) -> None:
    image = RANDOM.integers(1, 256, (height, width, 3), dtype=np.uint8)
    square = letterboxed(image, 32)
    np.testing.assert_array_equal(square[top : top + height, left : left + width], image)
    assert np.count_nonzero(square) == image.size


def test_a_larger_picture_is_shrunk_before_it_is_letterboxed() -> None:
    square = letterboxed(np.full((100, 50, 3), 255, np.uint8), 32)
    assert (square[:, 8:24] == 255).all()
    assert not square[:, :8].any()
    assert not square[:, 24:].any()


def test_black_and_white_are_normalised_by_clips_mean_and_deviation() -> None:
    images = np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)])
    got = network_pixels(images, 4, cropped)[:, :, 0, 0]
    mean, std = np.array(CLIP_MEAN), np.array(CLIP_STD)
    np.testing.assert_allclose(got, np.stack([-mean / std, (1 - mean) / std]), rtol=1e-5)
