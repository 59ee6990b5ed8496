"""Scored groups as one flat table of (sample, transition) pairs, the unit of a minibatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.advantage import Credit, Rewards, advantages
from rollout.kernel import build_process
from rollout.types import ScoredGroup


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """N pairs, ordered by group, sample, transition."""

    states: Tensor  # [N, C, h, w] float32
    actions: Tensor  # [N, C, h, w] float32
    noise: Tensor  # [N, C, h, w] float32
    sigma: Tensor  # [N] float32
    state_gain: Tensor  # [N]
    velocity_gain: Tensor  # [N]
    std: Tensor  # [N]
    advantage: Tensor  # [N]
    step: Tensor  # [N] int64, the step the transition leaves
    prompt: Tensor  # [N] int64, row of the update's conditions

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
        batch = [
            Rewards(r.values.astype(np.float64), r.scored, g.group.trajectory.transitions, r.span)
            for r, g in zip(column, groups, strict=True)
        ]
        part = [r.weight * table for r, table in zip(column, advantages(batch, credit), strict=True)]
        total = part if not total else [a + b for a, b in zip(total, part, strict=True)]
    return total


def build_pairs(groups: Sequence[ScoredGroup], tables: Sequence[NDArray[np.float64]]) -> Pairs:
    """All pairs of the groups; row i of the conditions belongs to groups[i]."""
    parts = [_group_pairs(group, table, row) for row, (group, table) in enumerate(zip(groups, tables, strict=True))]
    return Pairs(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Pairs)))


def _group_pairs(scored: ScoredGroup, table: NDArray[np.float64], row: int) -> Pairs:
    behaviour, trajectory = scored.group.behaviour, scored.group.trajectory
    process = build_process(behaviour.sigmas, behaviour.temperatures)
    transitions = [process[step] for step in trajectory.transitions]
    samples = scored.group.num_samples

    def each(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).repeat(samples)

    return Pairs(
        states=trajectory.states.flatten(0, 1).float(),
        actions=trajectory.actions.flatten(0, 1).float(),
        noise=trajectory.noise.flatten(0, 1).float(),
        sigma=each([t.sigma for t in transitions]),
        state_gain=each([t.state_gain for t in transitions]),
        velocity_gain=each([t.velocity_gain for t in transitions]),
        std=each([t.std for t in transitions]),
        advantage=torch.from_numpy(table.reshape(-1)).float(),
        step=torch.tensor([t.step for t in transitions]).repeat(samples),
        prompt=torch.full((samples * len(transitions),), row),
    )
