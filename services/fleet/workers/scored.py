"""From a scored entry and its payloads to the group that is learned from: the learner's workers and a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rollout.seeding import named_seed
from rollout.types import RolloutGroup, ScoredGroup, StepRewards
from services.config import RunConfig
from services.data.codec import decode_trajectory
from services.data.wire import ScoredEntry
from services.errors import BlobCorrupt


def scored_group(entry: ScoredEntry, latents: Sequence[bytes], config: RunConfig) -> ScoredGroup:
    """The group of an entry. latents: its payloads, one per sample. BlobCorrupt where they are not what it says, or
    where a sample is missing: an incomplete group is never trained.
    """
    group, samples = entry.group, config.sampling.samples_per_group
    found = {"latents": len(latents)} | {column.name: len(column.values) for column in entry.rewards}
    if set(found.values()) != {samples}:
        raise BlobCorrupt(f"group {group.ordinal}: expected {samples} samples, found {found}")
    rewards = tuple(column.to_rewards() for column in entry.rewards)
    if config.learning.advantage.shuffle_rewards:
        rewards = shuffled(rewards, config.seed, group.ordinal)
    return ScoredGroup(
        group=RolloutGroup(
            ordinal=group.ordinal,
            attempt=group.attempt,
            prompt=group.prompt.to_prompt(),
            behaviour=group.behaviour.to_behaviour(),
            weights=group.weights.to_version(),
            trajectory=decode_trajectory(group.transitions, latents),
            diversity=group.diversity,
        ),
        rewards=rewards,
    )


def shuffled(rewards: Sequence[StepRewards], seed: int, ordinal: int) -> tuple[StepRewards, ...]:
    """Rewards permuted over the group's samples: a control that must learn nothing."""
    order = np.random.default_rng(named_seed("shuffled rewards", seed, ordinal)).permutation(len(rewards[0].values))
    return tuple(replace(reward, values=reward.values[order]) for reward in rewards)
