"""Scored groups as flat tables of (sample, transition) pairs, the unit of a minibatch: one table for all groups whose
latents and conditions have the same shapes, since only those fit into one network call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rollout.policy import Conditions
from rollout.process import process_of
from rollout.types import ScoredGroup


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


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Pairs of which any fit into one network call."""

    pairs: Pairs
    conditions: Conditions  # `pairs.prompt` is a row of them

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, rows: Tensor) -> Stack:
        """The given rows."""
        return Stack(self.pairs.take(rows), self.conditions)


def alike(groups: Sequence[ScoredGroup], conditions: Sequence[Conditions]) -> list[list[int]]:
    """The places of the groups of each stack: those whose latents, and whose conditions of one row each, have the same
    shapes. In order of their first groups.
    """
    found: dict[object, list[int]] = {}
    for place, (group, row) in enumerate(zip(groups, conditions, strict=True)):
        found.setdefault((tuple(group.group.trajectory.states.shape[2:]), row.shapes), []).append(place)
    return list(found.values())


def rows_of_each(rows: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Rows of all tables of these sizes one after another, in any order, as rows of each table in that order."""
    ends = accumulate(sizes)
    return [rows[(rows >= end - size) & (rows < end)] - (end - size) for end, size in zip(ends, sizes, strict=True)]


def build_pairs(groups: Sequence[ScoredGroup], tables: Sequence[NDArray[np.float64]]) -> Pairs:
    """All pairs of groups with latents of one shape; row i of the conditions belongs to groups[i]. A transition that
    samples of a branching group share is one pair.
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
