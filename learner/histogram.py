"""How values are spread: counts in equal bins, small enough for the line of an update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 30
"""What TensorBoard shows of a histogram unless it is asked for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Finite values, counted in bins of equal width from the smallest to the largest."""

    low: float
    high: float
    total: float  # sum of the values
    squares: float  # sum of their squares
    counts: tuple[int, ...]  # one bin where all values are equal


def histogram(values: NDArray[np.floating]) -> Histogram | None:
    """The histogram of the finite ones of values [n]; None where there is none."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    counts, _ = np.histogram(finite, bins=BINS if high > low else 1, range=(low, high))
    return Histogram(
        low=low,
        high=high,
        total=float(finite.sum()),
        squares=float(np.square(finite).sum()),
        counts=tuple(counts.tolist()),
    )


def histograms(values: Mapping[int, Sequence[NDArray[np.floating]]]) -> dict[int, Histogram]:
    """By step: the histogram of all its parts, each [n]; a step without a finite value is left out."""
    found = {step: histogram(np.concatenate(parts)) for step, parts in sorted(values.items()) if parts}
    return {step: entry for step, entry in found.items() if entry is not None}
