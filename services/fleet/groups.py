"""One group, step by step: drawn, decoded, scored. Workers do it through the queue, `alone.py` in one process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rewards.reward import checked
from rollout.branching import strides
from rollout.decoding import decode_steps
from rollout.policy import Policy
from rollout.process import image_strides, num_images, process_of
from rollout.sampler import Drawn, named_noise, sample
from rollout.types import Behaviour, Prompt, StepImages, StepRewards
from services.fleet.build import WeightedReward


def draw_group(
    policy: Policy, prompt: Prompt, behaviour: Behaviour, num_samples: int, run_seed: int, ordinal: int
) -> Drawn:
    """The group of that name: a function of weights, behaviour and names alone."""
    noise = named_noise(policy, behaviour, run_seed, ordinal, range(num_samples))
    conditions = policy.encode([prompt.text]).take([0] * num_samples)
    return sample(policy, conditions, process_of(behaviour), noise, behaviour.branching)


def decode_images_of(
    policy: Policy, drawn: Drawn, behaviour: Behaviour, steps: Sequence[int], batch: int | None = None
) -> StepImages:
    """The images of these steps; one that samples share is decoded once."""
    return decode_steps(policy, drawn.clean, steps, batch, _shared(behaviour, len(drawn.clean)))


def score_images(weighted: WeightedReward, images: StepImages, prompt: Prompt, behaviour: Behaviour) -> StepRewards:
    """One reward on all decoded steps of a group; an image that samples share is scored once. Raises
    rewards.reward.RewardError.
    """
    samples = len(images.pixels)
    shared = _shared(behaviour, samples)
    flat = np.concatenate([images.pixels[:: shared[step], column] for column, step in enumerate(images.steps)])
    scores = checked(weighted.reward, flat, [prompt.text] * len(flat), [prompt.metadata] * len(flat))
    columns = num_images(process_of(behaviour))
    values: NDArray[np.float32] = np.zeros((samples, columns), dtype=np.float32)
    scored = np.zeros(columns, dtype=np.bool_)
    ends = np.cumsum([samples // shared[step] for step in images.steps])
    for step, part in zip(images.steps, np.split(scores, ends[:-1]), strict=True):
        values[:, step] = np.repeat(part, shared[step])
        scored[step] = True
    low, high = weighted.reward.range
    return StepRewards(name=weighted.reward.name, weight=weighted.weight, span=high - low, values=values, scored=scored)


def _shared(behaviour: Behaviour, samples: int) -> tuple[int, ...]:
    return image_strides(process_of(behaviour), strides(behaviour.branching, samples, behaviour.num_steps))
