"""The ratio guard: proof that rollout and learner compute the same transitions.

With the very weights that drew a group, the learner's means must equal the group's. A drift above tolerance means
that every ratio, and so every gradient, is about something else than what was sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from rollout.types import ScoredGroup

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""Largest drift, in units of std, by the network's dtype."""

CAUSES = (
    "states rounded after the density was taken, timesteps truncated to integers, dropout, another prompt padding or "
    "maximum sequence length, an adapter that was never bound, temperature or guidance changed between rollout and "
    "update, another attention back end"
)


class RatioGuardError(Exception):
    """Rollout and learner disagree about the same weights; the run refuses to train."""


def check_drift(measured: Mapping[int, float], dtype: torch.dtype) -> None:
    """measured: the largest drift at each step, in units of std, of learner from behaviour means under equal weights.
    Raises RatioGuardError naming the step where it is above the dtype's tolerance, or not a number.
    """
    for step, worst in measured.items():
        if not worst <= TOLERANCE[dtype]:
            raise RatioGuardError(
                f"step {step}: the learner's mean is {worst:.3g} standard deviations away from the rollout's for the "
                f"same weights; expected at most {TOLERANCE[dtype]:g} in {dtype}. Look for: {CAUSES}"
            )


def check_guidance(groups: Sequence[ScoredGroup], guidance: float) -> None:
    """Raises RatioGuardError naming the first group that was drawn with another guidance than the learner's policy
    computes: its transitions are another density's.
    """
    for group in groups:
        drawn = group.group.behaviour.guidance
        if drawn != guidance:
            raise RatioGuardError(
                f"group {group.group.ordinal} was drawn with guidance {drawn:g}, the learner's policy computes with "
                f"{guidance:g}; `sampling.guidance` must be the same in rollout and update"
            )
