"""Columns of a history: one figure over N updates, NaN where an update does not have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from services.observe.history import ReportFigures, UpdateRecord

Column = NDArray[np.float64]
"""[N], one number per update."""


def reward_names(figures: Sequence[ReportFigures]) -> tuple[str, ...]:
    """The rewards in order of first appearance."""
    return tuple(dict.fromkeys(name for figure in figures for name in figure.rewards))


def reward_means(figures: Sequence[ReportFigures], name: str) -> dict[int, Column]:
    """The mean of reward `name` by step; steps that no update scored are left out."""
    return by_step([_numbered(figure, name) for figure in figures])


def _numbered(figure: ReportFigures, name: str) -> dict[int, float]:
    reward = figure.rewards.get(name)
    return dict(enumerate(reward.mean)) if reward else {}


def by_step(rows: Sequence[Mapping[int, float]]) -> dict[int, Column]:
    """N mappings from step to figure as columns by step, steps rising; steps nowhere finite are left out."""
    steps = sorted({step for row in rows for step in row})
    columns = {step: np.array([row.get(step, np.nan) for row in rows], dtype=np.float64) for step in steps}
    return {step: column for step, column in columns.items() if np.isfinite(column).any()}


def constant(columns: Sequence[Column]) -> float | None:
    """The one value that all finite entries of several updates have; None where they differ."""
    finite = np.concatenate([column[np.isfinite(column)] for column in columns] or [np.empty(0)])
    return float(finite[0]) if len(finite) > len(columns) and (finite == finite[0]).all() else None


def by_name(rows: Sequence[Mapping[str, float]]) -> dict[str, Column]:
    """N mappings from name to figure as one column per name, in order of first appearance; missing is 0."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, 0.0) for row in rows], dtype=np.float64) for name in names}


def num_steps(figures: Sequence[ReportFigures]) -> int:
    """K, the number of model calls: one more than the last step that any figure speaks of; 0 without any."""
    steps = [len(reward.mean) for figure in figures for reward in figure.rewards.values()]
    steps += [step + 1 for figure in figures for step in (*figure.drift, *figure.advantage_std)]
    return max(steps, default=0)


def images_per_second(records: Sequence[UpdateRecord]) -> Column:
    """[N] images of each update over the seconds since the one before (since the start, for the first)."""
    images = np.diff([0, *(record.images_total for record in records)])
    seconds = np.diff([0.0, *(record.run_seconds for record in records)])
    speed: Column = np.full(len(records), np.nan)
    np.divide(images, seconds, out=speed, where=seconds > 0)
    return speed


def mean_staleness(records: Sequence[UpdateRecord]) -> Column:
    """[N] the mean over each update's groups, in updates."""
    return np.array([np.mean(r.staleness) if r.staleness else np.nan for r in records], dtype=np.float64)


def moving_mean(column: Column, window: int) -> Column:
    """[N] the mean of the finite entries in `window` updates around each, fewer at the ends; NaN without any."""
    before, after = (window - 1) // 2, window // 2
    return np.array([_finite_mean(column[max(0, i - before) : i + after + 1]) for i in range(len(column))])


def binned(column: Column, size: int) -> Column:
    """[ceil(N / size)] the mean of the finite entries of each `size` updates in turn; NaN without any."""
    if size == 1:
        return column
    return np.array([_finite_mean(column[i : i + size]) for i in range(0, len(column), size)])


def _finite_mean(column: Column) -> float:
    finite = column[np.isfinite(column)]
    return float(finite.mean()) if len(finite) else np.nan
