"""Scored groups as one flat table of (sample, transition) pairs, the unit of a minibatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.advantage import Credit, Rewards, Term, advantages, baseline_gain
from rollout.process import first_image_after, process_of
from rollout.types import ScoredGroup, StepRewards


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """N pairs, ordered by group, sample, transition."""

    states: Tensor  # [N, C, h, w] float32
    actions: Tensor  # [N, C, h, w] float32
    noise: Tensor  # [N, C, h, w] float32
    sigma: Tensor  # [N] float32
    sigma_next: Tensor  # [N] float32
    state_gain: Tensor  # [N]
    velocity_gain: Tensor  # [N]
    std: Tensor  # [N]
    advantage: Tensor  # [N]
    step: Tensor  # [N] int64, the step the transition leaves
    prompt: Tensor  # [N] int64, row of the update's conditions
    count: Tensor  # [N] float32, how many of the group's samples share this transition; 1 without branching

    def __len__(self) -> int:
        return len(self.std)

    def take(self, rows: Tensor) -> Pairs:
        """The given rows."""
        return Pairs(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device) -> Pairs:
        """On another device."""
        return Pairs(*(getattr(self, field.name).to(device) for field in fields(self)))


def group_advantages(groups: Sequence[ScoredGroup], credit: Credit) -> list[NDArray[np.float64]]:
    """[G, T] per group: each reward is normalised by itself, then weighted and summed."""
    names = [reward.name for reward in groups[0].rewards]
    for group in groups:
        found = [reward.name for reward in group.rewards]
        if found != names:
            raise ValueError(f"groups disagree about their rewards: expected {names} in every group, found {found}")
    total: list[NDArray[np.float64]] = []
    for index in range(len(names)):
        column = [group.rewards[index] for group in groups]
        batch = [_rewards_of(r, g) for r, g in zip(column, groups, strict=True)]
        part = [r.weight * table for r, table in zip(column, advantages(batch, credit), strict=True)]
        total = part if not total else [a + b for a, b in zip(total, part, strict=True)]
    return total


def baseline_gains(groups: Sequence[ScoredGroup], credit: Credit) -> dict[int, float]:
    """By transition, the gain b_k that all groups together give the first reward's baseline; empty where none is
    regressed. Each group's own advantage uses the others' alone.
    """
    if not credit.regress_baseline:
        return {}
    terms: dict[int, list[Term]] = {}
    for group in groups:
        rewards = _rewards_of(group.rewards[0], group)
        for step in rewards.transitions:
            terms.setdefault(step, []).append(credit.mode(rewards, step))
    return {step: baseline_gain(found) for step, found in sorted(terms.items())}


def _rewards_of(rewards: StepRewards, scored: ScoredGroup) -> Rewards:
    group = scored.group
    return Rewards(
        rewards.values.astype(np.float64),
        rewards.scored,
        group.trajectory.transitions,
        rewards.span,
        first_image_after(process_of(group.behaviour)),
        group.strides if group.behaviour.branching else None,
    )


def build_pairs(groups: Sequence[ScoredGroup], tables: Sequence[NDArray[np.float64]]) -> Pairs:
    """All pairs of the groups; row i of the conditions belongs to groups[i]. A transition that samples of a branching
    group share is one pair.
    """
    parts = [_group_pairs(group, table, row) for row, (group, table) in enumerate(zip(groups, tables, strict=True))]
    return Pairs(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Pairs)))


def _group_pairs(scored: ScoredGroup, table: NDArray[np.float64], row: int) -> Pairs:
    trajectory, samples = scored.group.trajectory, scored.group.num_samples
    process = process_of(scored.group.behaviour)
    transitions = [process[step] for step in trajectory.transitions]
    behind = torch.tensor([scored.group.strides[step + 1] for step in trajectory.transitions])
    own = (torch.arange(samples)[:, None] % behind[None, :] == 0).flatten()  # the first of those that share it

    def each(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).repeat(samples)[own]

    return Pairs(
        states=trajectory.states.flatten(0, 1)[own].float(),
        actions=trajectory.actions.flatten(0, 1)[own].float(),
        noise=trajectory.noise.flatten(0, 1)[own].float(),
        sigma=each([t.sigma for t in transitions]),
        sigma_next=each([t.sigma_next for t in transitions]),
        state_gain=each([t.state_gain for t in transitions]),
        velocity_gain=each([t.velocity_gain for t in transitions]),
        std=each([t.std for t in transitions]),
        advantage=torch.from_numpy(table.reshape(-1)).float()[own],
        step=torch.tensor([t.step for t in transitions]).repeat(samples)[own],
        prompt=torch.full((int(own.sum()),), row),
        count=behind.float().repeat(samples)[own],
    )
