import math

import numpy as np
import pytest

from rewards.picture_statistics import distance, diversity, saturation, sharpness


def flat(*colour: int, count: int = 1) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (count, 6, 6, 3)).copy()


NOISE = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)


def test_equal_images_have_no_diversity_and_opposite_ones_have_all() -> None:
    assert diversity(flat(7, 8, 9, count=3)) == 0.0
    assert diversity(np.concatenate([flat(0, 0, 0), flat(255, 255, 255)])) == pytest.approx(1.0)
    assert math.isnan(diversity(flat(1, 2, 3)))


def test_diversity_is_the_mean_distance_over_all_pairs() -> None:
    pairs = [distance(NOISE[[i]], NOISE[[j]]) for i in range(5) for j in range(i + 1, 5)]
    assert diversity(NOISE) == pytest.approx(np.mean(pairs), rel=1e-5)


def test_distance_is_that_of_counterparts() -> None:
    assert distance(NOISE, NOISE) == 0.0
    assert distance(flat(51, 51, 51, count=2), flat(0, 0, 0, count=2)) == pytest.approx(0.2)


def test_grey_has_no_saturation_and_pure_colours_have_all() -> None:
    assert saturation(flat(90, 90, 90)) == 0.0
    assert saturation(flat(0, 0, 0)) == 0.0
    assert saturation(flat(200, 0, 0)) == 1.0
    assert saturation(flat(200, 100, 150)) == pytest.approx(0.5)


def test_sharpness_is_zero_for_planes_and_large_for_noise() -> None:
    ramp = np.broadcast_to(np.arange(6, dtype=np.uint8)[None, None, :, None] * 20, (1, 6, 6, 3))
    assert sharpness(flat(3, 4, 5)) == pytest.approx(0.0, abs=1e-6)
    assert sharpness(ramp) == pytest.approx(0.0, abs=1e-6)
    assert sharpness(NOISE) > 0.3
    assert sharpness(np.zeros((1, 2, 2, 3), np.uint8)) == 0.0


def test_one_bright_point_has_the_laplacian_of_a_point() -> None:
    image = flat(0, 0, 0)
    image[0, 2, 3] = 255
    assert sharpness(image) == pytest.approx((4 + 4) / 16)
