"""Grids and temperatures as plain numbers. A schedule is a value, not an object with a step index."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

TEMPERATURE_MAX = 2.0
"""There a state has twice the noise that the model was trained to see."""


def uniform_grid(num_steps: int) -> tuple[float, ...]:
    """1, 1 - 1/K, ..., 1/K, 0: K + 1 noise levels."""
    return shifted_grid(num_steps, shift=1.0)


def shifted_grid(num_steps: int, shift: float) -> tuple[float, ...]:
    """A uniform grid bent towards noise by s -> shift s / (1 + (shift - 1) s); exact 1 and 0 at the ends."""
    levels = [1.0 - step / num_steps for step in range(1, num_steps)]
    return (1.0, *(shift * level / (1.0 + (shift - 1.0) * level) for level in levels), 0.0)


def check_grid(sigmas: Sequence[float]) -> None:
    """Raise ValueError unless sigmas fall strictly from 1 to 0."""
    if len(sigmas) < 2 or sigmas[0] != 1.0 or sigmas[-1] != 0.0:
        raise ValueError(f"a grid goes from 1 to 0; found {list(sigmas)} in `sampling.sigmas`")
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        if not sigma_next < sigma:
            raise ValueError(f"a grid falls strictly; step {step} of `sampling.sigmas` goes {sigma} -> {sigma_next}")


def _constant(fraction: float, sigma: float) -> float:
    return 0.0


def _linear(fraction: float, sigma: float) -> float:
    return fraction


def _cosine(fraction: float, sigma: float) -> float:
    return 0.5 - 0.5 * math.cos(math.pi * fraction)


def _sigma(fraction: float, sigma: float) -> float:
    return 1.0 - sigma


ANNEALING: dict[str, Callable[[float, float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "sigma": _sigma,
}
"""How far a temperature has gone from its start (0) to its end (1), given the transition's place in [0, 1] among the
transitions that carry noise, and the noise level it leaves."""


UPDATE_LAWS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: done,
    "cosine": lambda done: 0.5 - 0.5 * math.cos(math.pi * done),
}
"""How far a schedule over updates has gone, given the share of its updates that are done."""


def temperatures(annealing: str, start: float, end: float, sigmas: Sequence[float]) -> tuple[float, ...]:
    """One temperature per step of the grid, annealed from `start` to `end`; K values in [0, TEMPERATURE_MAX]."""
    law = ANNEALING[annealing]
    noisy = max(len(sigmas) - 3, 1)  # the transition into sigma 0 carries no noise
    return tuple(start + (end - start) * law(min(step / noisy, 1.0), sigma) for step, sigma in enumerate(sigmas[:-1]))
