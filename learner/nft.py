"""The DiffusionNFT-style update (arXiv 2509.16117): learning on the forward process, from final images alone.

Each final image x0 is noised anew, x_s = (1 - s) x0 + s eps, v* = eps - x0. With the old velocity v_old and the share
q in [0, 1] by which the image counts as a good one,

    v+ = (1 - b) v_old + b v          v- = (1 + b) v_old - b v
    loss = q |v+ - v*|^2 + (1 - q) |v- - v*|^2        per dimension

No density is asked for, so the sampler may be any. What differs from the paper: the noise levels are those of the
group's own grid, q follows from the group's normalised terminal advantage, the weighting is plain, and v_old is the
velocity when the update began, not an average of older weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.batching import Pairs, build_pairs
from learner.loss import PairLoss, per_dimension
from rollout.types import ScoredGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class NegativeAware:
    """The update's constants."""

    strength: float = 1.0  # b
    advantage_max: float = 5.0  # the advantage at which an image counts as wholly good


def forward_pairs(groups: Sequence[ScoredGroup], tables: Sequence[NDArray[np.float64]], seed: int) -> Pairs:
    """A pair for each sample and each noise level of its grid: `actions` is the final image, `noise` a fresh eps,
    a function of `seed`, `states` the image noised with it, `advantage` the final's. The groups' last transition must
    be a trained one (last_step floor or x0): its action is the final image.
    """
    generator = torch.Generator().manual_seed(seed)
    finals = [_with_finals(group) for group in groups]
    last = [np.repeat(table[:, -1:], table.shape[1], axis=1) for table in tables]
    pairs = build_pairs(finals, last)
    eps = torch.randn(pairs.states.shape, generator=generator)
    s = pairs.sigma.view(-1, 1, 1, 1)
    return replace(pairs, states=(1.0 - s) * pairs.actions + s * eps, noise=eps)


def _with_finals(scored: ScoredGroup) -> ScoredGroup:
    trajectory = scored.group.trajectory
    finals = trajectory.actions[:, -1:].expand_as(trajectory.actions)
    return replace(scored, group=replace(scored.group, trajectory=replace(trajectory, actions=finals)))


def nft_loss(pairs: Pairs, v: Tensor, v_old: Tensor, how: NegativeAware) -> PairLoss:
    """The loss of every pair; v carries the gradient, v_old is the velocity when the update began; [n, C, h, w]."""
    wanted, old = pairs.noise - pairs.actions, v_old.detach()
    good = (0.5 + 0.5 * (pairs.advantage / how.advantage_max)).clamp(0.0, 1.0)
    positive = old + how.strength * (v - old)
    negative = old - how.strength * (v - old)
    loss = good * per_dimension((positive - wanted).square()) + (1.0 - good) * per_dimension(
        (negative - wanted).square()
    )
    nothing, never = torch.zeros_like(loss).detach(), torch.zeros_like(loss, dtype=torch.bool)
    return PairLoss(loss, nothing, nothing, nothing, never, never)
