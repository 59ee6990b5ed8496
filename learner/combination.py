"""Several rewards, one advantage: each is gated, normalised by itself, weighted, and then they are summed.

The rewards' own values stay as they were scored: what a gate or a weight does to them happens here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learner.advantage import Credit, Floats, Rewards, Term, advantages, baseline_gain
from rollout.process import first_image_after, process_of
from rollout.types import ScoredGroup, StepRewards


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A reward counts only where another one is high enough."""

    reward: str  # the other one's name
    at_least: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighting:
    """How one reward counts in the sum of advantages."""

    weights: tuple[tuple[int, float], ...] = ((1, 1.0),)  # (update, weight), updates rising
    step_weights: tuple[float, ...] | None = None  # [K] factors of mode to_go; None: 1 throughout
    gate: Gate | None = None

    def at(self, update: int) -> float:
        """The weight in an update, counted from 1: linear between the updates that are given, constant outside."""
        return float(np.interp(update, [at for at, _ in self.weights], [weight for _, weight in self.weights]))


def group_advantages(
    groups: Sequence[ScoredGroup], credit: Credit, weightings: Mapping[str, Weighting], update: int
) -> list[Floats]:
    """[G, T] per group: the sum over rewards of weight * normalised advantage.

    weightings: by reward. update: the one that is being made, from 1. ValueError for groups that disagree about their
    rewards, or carry one that has no weighting.
    """
    names = [reward.name for reward in groups[0].rewards]
    for group in groups:
        found = [reward.name for reward in group.rewards]
        if found != names:
            raise ValueError(f"groups disagree about their rewards: expected {names} in every group, found {found}")
    if set(names) != set(weightings):
        raise ValueError(f"expected scores of the rewards {sorted(weightings)}, found {sorted(names)}")
    total = [np.zeros((g.group.num_samples, len(g.group.trajectory.transitions))) for g in groups]
    for index, name in enumerate(names):
        weight = weightings[name].at(update)
        if weight != 0.0:
            batch = [_counted(group, group.rewards[index], weightings[name]) for group in groups]
            tables = advantages(batch, credit)
            total = [sum_ + weight * table for sum_, table in zip(total, tables, strict=True)]
    return total


def baseline_gains(
    groups: Sequence[ScoredGroup], credit: Credit, weightings: Mapping[str, Weighting]
) -> dict[int, float]:
    """By transition, the gain b_k that all groups together give the first reward's baseline; empty where none is
    regressed. Each group's own advantage uses the others' alone.
    """
    if not credit.regress_baseline:
        return {}
    terms: dict[int, list[Term]] = {}
    for group in groups:
        first = group.rewards[0]
        rewards = _counted(group, first, weightings[first.name])
        for step in rewards.transitions:
            terms.setdefault(step, []).append(credit.mode(rewards, step))
    return {step: baseline_gain(found) for step, found in sorted(terms.items())}


def _counted(group: ScoredGroup, reward: StepRewards, weighting: Weighting) -> Rewards:
    values = reward.values.astype(np.float64)
    if weighting.gate is not None:
        values = gated(values, reward, passes(group, reward, weighting.gate))
    drawn = group.group
    return Rewards(
        values=values,
        scored=reward.scored,
        transitions=drawn.trajectory.transitions,
        span=reward.span,
        first_after=first_image_after(process_of(drawn.behaviour)),
        strides=drawn.strides if drawn.behaviour.branching else None,
        step_weights=weighting.step_weights,
    )


def passes(group: ScoredGroup, reward: StepRewards, gate: Gate) -> NDArray[np.bool_]:
    """Whether each sample passes the gate at each step: [G, K]; meaningless where `reward` is not scored.

    ValueError where the gate was not scored at one of the reward's steps.
    """
    other = next(entry for entry in group.rewards if entry.name == gate.reward)
    if (reward.scored & ~other.scored).any():
        raise ValueError(
            f"reward {reward.name!r}: expected its gate {gate.reward!r} to be scored at its steps "
            f"{np.flatnonzero(reward.scored).tolist()}, found {np.flatnonzero(other.scored).tolist()}"
        )
    with np.errstate(invalid="ignore"):  # what was not scored may be anything
        return other.values >= gate.at_least


def gated(values: Floats, reward: StepRewards, passed: NDArray[np.bool_]) -> Floats:
    """[G, K] the values of samples that pass; the others stand at the bottom of the reward's range, or as low as the
    lowest of their group where that is lower: failing a gate never beats passing it.
    """
    result = values.copy()
    for step in np.flatnonzero(reward.scored):
        bottom = min(reward.range[0], float(values[:, step].min()))
        result[~passed[:, step], step] = bottom
    return result
