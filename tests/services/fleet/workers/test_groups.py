from dataclasses import replace

import numpy as np
import pytest

from rollout.types import Prompt
from services.fleet.workers.groups import decode_images_of, draw_group, score_images
from services.fleet.workers.placed_rewards import PlacedReward
from tests.linear_chain import chain_behaviour
from tests.tiny_policies import TinyPolicy


class Decoding(TinyPolicy):
    """Images are the latents' first channel as bytes; counts what it decodes."""

    decoded = 0

    def decode(self, x0):
        self.decoded += len(x0)
        grey = (x0[:, 0] * 20.0 + 128.0).clamp(0, 255).byte()
        return grey[..., None].expand(*grey.shape, 3).contiguous()

    preview = decode


class Mean:
    name, range, required_metadata = "mean", (0.0, 255.0), ()
    seen = 0

    def __call__(self, images, prompts, metadata):
        self.seen += len(images)
        return images.reshape(len(images), -1).mean(1).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "steps", "unique"),
    [
        ({}, (0, 1, 2), 36),
        ({"branching": (2, 2, 3)}, (0, 1, 2), 2 + 4 + 12),
        ({"branching": (2, 2, 3)}, (2,), 12),
        ({"branching": (2, 2, 3), "last_step": "floor", "last_std": 0.2}, (0, 3), 2 + 12),
        ({"branching": (2, 2, 3), "last_step": "x0", "last_std": 0.2}, (0, 1), 4 + 12),
    ],
)
def test_an_image_that_samples_share_is_decoded_and_scored_once(options, steps, unique):
    policy, reward, prompt = Decoding(), Mean(), Prompt(id="0", text="a")
    behaviour = replace(chain_behaviour(**options), height=2, width=3)
    drawn = draw_group(policy, prompt, behaviour, 12, 0, 5)
    images = decode_images_of(policy, drawn, behaviour, steps)
    found = score_images(PlacedReward(reward.name, reward, lambda _: images.steps, 64), images, prompt, behaviour)
    assert (policy.decoded, reward.seen) == (unique, unique)
    every = policy.decode(drawn.clean[:, list(steps)].flatten(0, 1)).numpy().reshape(12, len(steps), 2, 3, 3)
    np.testing.assert_array_equal(images.pixels, every)
    np.testing.assert_allclose(found.values[:, list(steps)], every.reshape(12, len(steps), -1).mean(2), rtol=1e-5)
    assert tuple(np.flatnonzero(found.scored)) == steps
