"""The one Gaussian kernel that the sampler draws from and the learner differentiates.

With s = sigma_k, s' = sigma_{k+1}, temperature tau_k and the model's velocity v = eps - x0 (TAFS-GRPO; see
ARCHITECTURE.md, "The mathematics"):

    x0_hat = x - s v                    eps_hat = x + (1 - s) v
    mean   = (1 - s') x0_hat + s' sqrt(max(1 - tau^2, 0)) eps_hat
    std    = s' tau
    x[k+1] = mean + std z,              z ~ N(0, I)

Both hats are affine in x and v, so a transition is three numbers: mean = state_gain x + velocity_gain v, and std. Other
kernels (`baselines.py`) and other last steps (`process.py`) are other numbers of the same Transition.
tau = 0 is the Euler step of the probability-flow ODE, tau = 1 re-noises the one-step sample (diffusers'
`stochastic_sampling=True`), tau = sin(eta pi / 2) is Coefficients-Preserving Sampling (arXiv 2509.05952).
Up to 1 an exact model keeps the flow's marginals; tau > 1 over-noises: there is more noise than s' says,
as Flow-SDE has at few steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STD_MIN = 0.02
"""Smallest standard deviation of a trained transition; below it log ratios are noise of the float format."""
GAIN_TO_STD_MAX = 10.0
"""Largest |velocity_gain| / std of a trained transition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """Step `step` of the process: action ~ N(state_gain x[k] + velocity_gain v, std^2), then x[k+1] = carry action +
    fresh n.

    n is the environment's noise, no choice of the policy's: everywhere but in x0-space carry is 1 and fresh is 0.
    """

    step: int
    sigma: float
    sigma_next: float
    tau: float
    state_gain: float  # d mean / d x
    velocity_gain: float  # J = d mean / d v, negative
    std: float  # 0: deterministic, no density
    carry: float = 1.0
    fresh: float = 0.0
    shows_action: bool = False  # x0-space: the step's image is its action; elsewhere it is x0_hat, known before it


Kernel = Callable[[int, float, float, float], Transition]
"""The transition of a step from one noise level to the next at a temperature."""


def annealed(step: int, sigma: float, sigma_next: float, tau: float) -> Transition:
    """The TAFS transition from noise level `sigma` to `sigma_next` at temperature `tau`."""
    kept = sigma_next * math.sqrt(max(1.0 - tau * tau, 0.0))  # share of the old noise that stays
    return Transition(
        step=step,
        sigma=sigma,
        sigma_next=sigma_next,
        tau=tau,
        state_gain=(1.0 - sigma_next) + kept,
        velocity_gain=-sigma * (1.0 - sigma_next) + kept * (1.0 - sigma),
        std=sigma_next * tau,
    )


def build_process(
    sigmas: Sequence[float], temperatures: Sequence[float], kernel: Kernel = annealed
) -> tuple[Transition, ...]:
    """All K transitions of a grid of K + 1 noise levels with K temperatures; the last one into sigma 0 is drawn without
    noise (`process.process_of` gives it some).
    """
    return tuple(
        kernel(step, sigma, sigma_next, tau)
        for step, (sigma, sigma_next, tau) in enumerate(zip(sigmas[:-1], sigmas[1:], temperatures, strict=True))
    )


def trained_transitions(process: Sequence[Transition]) -> tuple[int, ...]:
    """The steps whose transition has a density: all but the last of a grid that ends at 0, at tau > 0.

    Raises ValueError naming step, sigma and tau where a density is too narrow to be learned from.
    """
    trained = tuple(transition.step for transition in process if transition.std > 0.0)
    for step in trained:
        transition = process[step]
        gain = abs(transition.velocity_gain) / transition.std
        if transition.std < STD_MIN or gain > GAIN_TO_STD_MAX:
            raise ValueError(
                f"step {step} (sigma {transition.sigma:.4g} -> {transition.sigma_next:.4g}, tau {transition.tau:.4g}) "
                f"cannot be trained: expected std >= {STD_MIN} and |J|/std <= {GAIN_TO_STD_MAX}, found std "
                f"{transition.std:.4g} and |J|/std {gain:.4g}; raise its temperature (or `last_std`) or change the "
                "grid in `sampling`"
            )
    if not trained:
        raise ValueError(
            "no transition has a density: expected at least one step with temperature > 0 that does not end at "
            "sigma 0; in `sampling` use two steps or more and a temperature above 0, or `last_step: x0`, which trains "
            "a single step too"
        )
    return trained


def one_step_sample(x: Tensor, v: Tensor, sigma: float) -> Tensor:
    """x0_hat, the model's clean prediction from state x at noise level sigma; shape of x, float32."""
    return x - sigma * v


def transition_mean(x: Tensor, v: Tensor, state_gain: float | Tensor, velocity_gain: float | Tensor) -> Tensor:
    """The transition's mean; gains are numbers, or tensors that broadcast over x where transitions are mixed."""
    return state_gain * x + velocity_gain * v
