"""What controller and workers say to each other: plain frozen values, no torch, so that the driver stays light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout.types import WeightsVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How a worker finds its run, and who it is."""

    redis_url: str = field(repr=False)  # carries the password
    run: str
    slot: str  # stable name of the worker's place, e.g. "rollout-3"
    incarnation: int = 0  # how many processes that place had before


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlace:
    """Where a learner rank stands among its peers."""

    rank: int = 0
    size: int = 1
    init_method: str = ""  # of torch.distributed, e.g. tcp://host:port; unused by a single rank
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the run stands: what a checkpoint restores beside tensors."""

    update: int = 0
    version: int = 0  # of the last published weights
    lineage: int = 0
    consumed: tuple[tuple[int, int], ...] = ()  # ordinals as half-open intervals
    run_seconds: float = 0.0
    images_total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a learner found when it started."""

    progress: Progress | None  # None: there was no checkpoint
    digest: str  # of the weights that the learner holds now
    config: str | None = None  # digest of the configuration that it was saved under
    complaints: tuple[str, ...]  # one sentence about every broken checkpoint that was passed over


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOrder:
    """The controller's order to every rank: one update on these entries."""

    entries: tuple[bytes, ...]  # ScoredEntry, in the order of their ordinals
    version: int  # of the weights to publish
    lineage: int
    epoch: int  # of the take-over that orders it: an older one cannot publish
    fresh: bool  # all entries were drawn with the live weights: the ratio guard checks every pair
    check_one: bool  # else: check one group with the weights that drew it


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """What one update gives back."""

    report: Mapping[str, Any]  # the UpdateReport's fields, plain
    version: WeightsVersion
    unpublished: bool  # the server was away, or had lost the run: the controller has them published again
    phase_seconds: Mapping[str, float]  # wall clock: load, forward_backward, publish
    call_seconds: float  # CPU seconds of the update itself
    complaints: tuple[str, ...] = ()  # what went wrong beside it, for the operator


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTask:
    """A share of an evaluation, for one worker."""

    version: WeightsVersion | None  # published weights; None: those before training
    temperatures: tuple[float, ...]  # constant temperatures to sample at
    share: int  # this worker's place among `shares`
    shares: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPart:
    """Images read right, of those drawn, by temperature."""

    images: int
    exact: Mapping[float, int]
    judge_exact: Mapping[float, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LookTask:
    """A share of a look of the held-out panel, for one learner rank."""

    share: int
    shares: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LookPart:
    """What it found, prompt by prompt: "trained" and "panel" with scores per image, "statistics" of the pictures."""

    parts: tuple[Mapping[str, Mapping[str, list[float]]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One prompt's steps, for the image strips."""

    caption: str
    images: NDArray[np.uint8]  # [K, H, W, 3]
    notes: tuple[str, ...]  # what was read off each step
