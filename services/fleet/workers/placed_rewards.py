"""From a validated run file to its rewards. A reward worker imports no more of a model than its rewards do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rewards.build import build as build_reward
from rewards.reward import Reward
from rollout.types import Behaviour
from services.config import RunConfig


@dataclass(frozen=True, slots=True)
class PlacedReward:
    """A reward with its name in the run and the steps whose images it scores."""

    name: str
    reward: Reward
    steps: Callable[[Behaviour], tuple[int, ...]]  # of a group that was drawn so
    batch_images: int  # in one call, at most


def build_rewards(config: RunConfig) -> tuple[PlacedReward, ...]:
    """The run's rewards, in the run file's order."""
    return tuple(
        PlacedReward(
            name=entry.title,
            reward=build_reward(entry.use, entry.options),
            steps=partial(config.reward_steps, entry),
            batch_images=entry.batch_images,
        )
        for entry in config.rewards
    )
