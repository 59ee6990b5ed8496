"""The adaptive temperature: holds a group's spread after each noisy step near a target.

A group that was drawn at temperature tau with spread s says that tau * target / s would have been right, if the spread
is proportional to the temperature. The controller goes a share `gain` of the way towards the mean of what an update's
groups say, in logarithms:

    log T_k <- (1 - gain) log T_k + gain mean_g log(tau_gk clip(target / s_gk, 1/2, 2))

Every group speaks of the temperature it was drawn with itself, not of the controller's present one, so that groups that
come late neither wind it up nor make it swing: with s ~ tau^e it converges for 0 < e < 2 whatever their staleness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rollout.process import first_image_after, process_of
from rollout.types import ScoredGroup

STEP_MAX = 2.0
"""The largest factor by which one group may want its temperature changed; a group without spread wants this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadTarget:
    """What the controller holds, and where it starts."""

    start: tuple[float, ...]  # K temperatures
    of: str  # reward (in units of the declared range) | latent
    target: float
    gain: float
    minimum: float
    maximum: float


class TemperatureControl:
    """The temperatures that the next groups are to be drawn with."""

    def __init__(self, spec: SpreadTarget) -> None:
        self._spec = spec
        self._log = np.log(np.clip(np.array(spec.start, dtype=np.float64), spec.minimum, spec.maximum))

    @property
    def temperatures(self) -> tuple[float, ...]:
        """K, one per step."""
        return tuple(float(tau) for tau in np.exp(self._log))

    def follow(self, groups: Sequence[ScoredGroup], weights: Mapping[str, float]) -> None:
        """Take an update's groups in, with its rewards' weights; steps that are not trained stay where they are."""
        wanted: dict[int, list[float]] = {}
        for group in groups:
            for step, spread in spread_after(group, self._spec.of, weights).items():
                tau = group.group.behaviour.temperatures[step]
                factor = min(max(self._spec.target / max(spread, 1e-12), 1.0 / STEP_MAX), STEP_MAX)
                wanted.setdefault(step, []).append(math.log(tau * factor))
        low, high = math.log(self._spec.minimum), math.log(self._spec.maximum)
        for step, logs in wanted.items():
            moved = (1.0 - self._spec.gain) * self._log[step] + self._spec.gain * float(np.mean(logs))
            self._log[step] = min(max(moved, low), high)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"log_temperatures": torch.from_numpy(self._log.copy())}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self._log = tensors["log_temperatures"].numpy().astype(np.float64)


def spread_after(group: ScoredGroup, of: str, weights: Mapping[str, float]) -> dict[int, float]:
    """By trained transition, the group's spread at the first known image that the transition's noise can change."""
    rollout = group.group
    first = first_image_after(process_of(rollout.behaviour))
    spreads = np.array(rollout.diversity, dtype=np.float64) if of == "latent" else _reward_spreads(group, weights)
    found = {}
    for step in rollout.trajectory.transitions:
        later = spreads[step + first :]
        known = later[np.isfinite(later)]
        if len(known):
            found[step] = float(known[0])
    return found


def _reward_spreads(group: ScoredGroup, weights: Mapping[str, float]) -> np.ndarray:
    """By image: the mean standard deviation within the group of the rewards that score it, in units of their range, by
    the size of their weights (equal where all are 0); NaN where none scores it.
    """
    sizes = np.array([abs(weights[reward.name]) for reward in group.rewards])
    scored = np.array([reward.scored for reward in group.rewards])
    shares = scored * (sizes if sizes.sum() > 0.0 else np.ones_like(sizes))[:, None]
    stds = np.array([reward.values.astype(np.float64).std(axis=0) / reward.span for reward in group.rewards])
    total = shares.sum(axis=0)
    spreads: np.ndarray = np.full(len(total), np.nan)
    np.divide(np.where(shares > 0.0, shares * stds, 0.0).sum(axis=0), total, out=spreads, where=total > 0.0)
    return spreads
