"""One group, step by step: drawn, decoded, scored. Workers do it through the queue, `alone.py` in one process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rewards.remote_wire import Question
from rewards.reward import checked
from rollout.branching import strides
from rollout.decoding import decode_steps
from rollout.policy import Policy, conditions_of
from rollout.process import image_strides, num_images, process_of
from rollout.sampler import Drawn, named_noise, sample
from rollout.types import Behaviour, Prompt, StepImages, StepRewards
from services.fleet.workers.placed_rewards import PlacedReward


def draw_group(
    policy: Policy, prompt: Prompt, behaviour: Behaviour, num_samples: int, run_seed: int, ordinal: int
) -> Drawn:
    """The group of that name: a function of weights, behaviour and names alone."""
    noise = named_noise(policy, behaviour, run_seed, ordinal, range(num_samples))
    conditions = conditions_of(policy, prompt).take([0] * num_samples)
    return sample(policy, conditions, process_of(behaviour), noise, behaviour.branching)


def decode_images_of(
    policy: Policy, drawn: Drawn, behaviour: Behaviour, steps: Sequence[int], batch: int | None = None
) -> StepImages:
    """The images of these steps; one that samples share is decoded once."""
    return decode_steps(policy, drawn.clean, steps, batch, _shared(behaviour, len(drawn.clean)))


def question_of(placed: PlacedReward, images: StepImages, prompt: Prompt, behaviour: Behaviour) -> Question:
    """What a reward is asked about a group: its steps, one after another; an image that samples share stands once."""
    shared = _shared(behaviour, len(images.pixels))
    flat = np.concatenate(
        [images.pixels[:: shared[step], images.steps.index(step)] for step in placed.steps(behaviour)]
    )
    return Question(images=flat, prompts=[prompt.text] * len(flat), metadata=[prompt.metadata] * len(flat))


def step_rewards(placed: PlacedReward, scores: NDArray[np.float32], samples: int, behaviour: Behaviour) -> StepRewards:
    """The reward's values of a group, from the scores that answer its question."""
    steps, shared = placed.steps(behaviour), _shared(behaviour, samples)
    columns = num_images(process_of(behaviour))
    values: NDArray[np.float32] = np.zeros((samples, columns), dtype=np.float32)
    scored = np.zeros(columns, dtype=np.bool_)
    ends = np.cumsum([samples // shared[step] for step in steps])
    for step, part in zip(steps, np.split(scores, ends[:-1]), strict=True):
        values[:, step] = np.repeat(part, shared[step])
        scored[step] = True
    return StepRewards(name=placed.name, range=placed.reward.range, values=values, scored=scored)


def score_images(placed: PlacedReward, images: StepImages, prompt: Prompt, behaviour: Behaviour) -> StepRewards:
    """One reward on its steps of a group. Raises rewards.reward.RewardError."""
    asked = question_of(placed, images, prompt, behaviour)
    scores = checked(placed.reward, asked.images, asked.prompts, asked.metadata)
    return step_rewards(placed, scores, len(images.pixels), behaviour)


def _shared(behaviour: Behaviour, samples: int) -> tuple[int, ...]:
    return image_strides(process_of(behaviour), strides(behaviour.branching, samples, behaviour.num_steps))
