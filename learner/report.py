"""What an update tells about itself: plain numbers, ready for a terminal, TensorBoard, Prometheus or a report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.batching import Pairs
from learner.combination import Weighting, passes
from learner.histogram import Histogram, histograms
from learner.loss import PairLoss
from learner.ranks import Ranks
from rollout.types import ScoredGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardStatistics:
    """One reward's own values over the groups of an update, before any gate or weight; tuples run over the K steps, NaN
    where a step was not scored.
    """

    mean: tuple[float, ...]
    spread: tuple[float, ...]  # mean over groups of the std within a group
    zero_spread: tuple[float, ...]  # share of groups whose samples all scored the same
    weight: float  # in this update's sum of advantages
    passed: tuple[float, ...]  # share of samples that its gate let pass; empty without a gate


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What one update did."""

    update: int  # its number, from 1
    consumed: tuple[int, ...]  # ordinals
    images: int
    trained: bool  # False: an optimizer step was left out, its gradients were not finite on some rank
    rate: float  # learning rate
    loss: float
    grad_norm: float  # before clipping
    kl: float  # to the reference policy; 0 where it is not asked for
    clip_fraction: float
    skipped_fraction: float  # pairs left out because their advantage is zero
    dropped_fraction: float  # pairs whose drift from the behaviour policy is too large
    guard_drift: float  # largest, in units of std; NaN where the guard was not asked
    drift: Mapping[int, float]  # by step: root mean square drift from the behaviour policy
    log_ratio_max: Mapping[int, float]  # by step: largest |log ratio| per dimension
    advantage_std: Mapping[int, float]  # by step
    rewards: Mapping[str, RewardStatistics]
    distance: float  # from the reference, root mean square in v on one micro-batch; NaN where there is no reference
    diversity: Mapping[int, float]  # by image: root mean square distance within a group, in latents, mean over groups
    temperature: Mapping[int, float]  # by step: that the groups were drawn with, mean over groups
    baseline_gain: Mapping[int, float]  # by step: b_k of the first reward, where it is regressed
    advantages: Mapping[int, Histogram]  # by step: of all pairs
    drifts: Mapping[int, Histogram]  # by step: of this rank's pairs that were computed


@dataclass(slots=True)
class Tally:
    """Sums over an update's micro-batches on this rank."""

    pairs: int = 0
    skipped: int = 0
    trained: bool = True
    grad_norm: float = 0.0
    guard_drift: float = float("nan")
    distance: float | None = None
    loss: float = 0.0
    kl: float = 0.0
    clipped: int = 0
    dropped: int = 0
    drift_max: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    drift_squares: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    drift_counts: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    drifts: defaultdict[int, list[NDArray[np.floating]]] = field(default_factory=lambda: defaultdict(list))
    log_ratio_max: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, pairs: Pairs, result: PairLoss) -> None:
        """Take one micro-batch in."""
        self.loss += float(result.loss.detach().sum())
        self.kl += float(result.kl.sum())
        self.clipped += int(result.clipped.sum())
        self.dropped += int(result.dropped.sum())
        for step in set(pairs.step.tolist()):
            here = pairs.step == step
            self.drift_max[step] = _worse(self.drift_max[step], result.drift[here].max())
            self.drift_squares[step] += float(result.drift[here].square().sum())
            self.drift_counts[step] += int(here.sum())
            self.drifts[step].append(result.drift[here].detach().cpu().numpy())
            self.log_ratio_max[step] = _worse(self.log_ratio_max[step], result.log_ratio[here].abs().max())

    def measure_distance(self, v: Tensor, v_reference: Tensor) -> None:
        """Take the first micro-batch's distance from the reference policy."""
        if self.distance is None:
            self.distance = float((v - v_reference).square().mean().sqrt())

    def over(self, ranks: Ranks) -> Tally:
        """The tally of all ranks: sums are summed; largest values and drifts stay those of this rank's pairs."""
        mine = [self.pairs, self.skipped, self.loss, self.kl, self.clipped, self.dropped]
        pairs, skipped, loss, kl, clipped, dropped = ranks.sum(torch.tensor(mine, dtype=torch.float64)).tolist()
        return replace(
            self,
            pairs=int(pairs),
            skipped=int(skipped),
            loss=loss,
            kl=kl,
            clipped=int(clipped),
            dropped=int(dropped),
        )


def _worse(known: float, found: Tensor) -> float:
    """The larger of the two, or NaN where either is: max() would drop a NaN, and the guard with it."""
    return float(np.maximum(known, float(found)))


def reward_statistics(
    groups: Sequence[ScoredGroup], weightings: Mapping[str, Weighting], update: int
) -> dict[str, RewardStatistics]:
    """By reward. Groups of one update may differ in K; statistics run over the longest, over those that scored it."""
    tables: defaultdict[str, list[_Table]] = defaultdict(list)
    for group in groups:
        for reward in group.rewards:
            gate = weightings[reward.name].gate
            passed = None if gate is None else passes(group, reward, gate)
            tables[reward.name].append(_Table(reward.values.astype(np.float64), reward.scored, passed))
    return {name: _statistics(found, weightings[name].at(update)) for name, found in tables.items()}


@dataclass(frozen=True, slots=True)
class _Table:
    values: NDArray[np.float64]  # [G, K]
    scored: NDArray[np.bool_]  # [K]
    passed: NDArray[np.bool_] | None  # [G, K]; None: no gate

    def scores(self, step: int) -> bool:
        return step < len(self.scored) and bool(self.scored[step])


def _statistics(tables: Sequence[_Table], weight: float) -> RewardStatistics:
    mean, spread, zero, passed = [], [], [], []
    for step in range(max(len(table.scored) for table in tables)):
        here = [table for table in tables if table.scores(step)]
        columns = [table.values[:, step] for table in here]
        stds = [float(column.std()) for column in columns]
        mean.append(float(np.concatenate(columns).mean()) if columns else float("nan"))
        spread.append(float(np.mean(stds)) if columns else float("nan"))
        zero.append(float(np.mean([std == 0.0 for std in stds])) if columns else float("nan"))
        let = [table.passed[:, step] for table in here if table.passed is not None]
        passed.append(float(np.concatenate(let).mean()) if let else float("nan"))
    has_gate = any(table.passed is not None for table in tables)
    return RewardStatistics(
        mean=tuple(mean),
        spread=tuple(spread),
        zero_spread=tuple(zero),
        weight=weight,
        passed=tuple(passed) if has_gate else (),
    )


def build_report(
    groups: Sequence[ScoredGroup],
    pairs: Sequence[Pairs],
    tally: Tally,
    *,
    update: int,
    rate: float,
    rewards: Mapping[str, RewardStatistics],
    gains: Mapping[int, float],
) -> UpdateReport:
    """The report of a finished update on all these pairs."""
    total = max(tally.pairs, 1)
    step_of, advantage = (torch.cat([getattr(part, name) for part in pairs]) for name in ("step", "advantage"))
    steps = sorted(set(step_of.tolist()))
    return UpdateReport(
        update=update,
        consumed=tuple(group.group.ordinal for group in groups),
        images=sum(group.group.num_samples for group in groups),
        trained=tally.trained,
        rate=rate,
        loss=tally.loss / total,
        grad_norm=tally.grad_norm,
        kl=tally.kl / total,
        clip_fraction=tally.clipped / total,
        skipped_fraction=tally.skipped / total,
        dropped_fraction=tally.dropped / total,
        guard_drift=tally.guard_drift,
        drift={step: (tally.drift_squares[step] / max(tally.drift_counts[step], 1)) ** 0.5 for step in steps},
        log_ratio_max={step: tally.log_ratio_max[step] for step in steps},
        advantage_std={step: float(advantage[step_of == step].std()) for step in steps},
        rewards=rewards,
        distance=float("nan") if tally.distance is None else tally.distance,
        diversity=_mean_by_place([group.group.diversity for group in groups]),
        temperature=_mean_by_place([group.group.behaviour.temperatures for group in groups]),
        baseline_gain=gains,
        advantages=histograms({step: [advantage[step_of == step].cpu().numpy()] for step in steps}),
        drifts=histograms(tally.drifts),
    )


def _mean_by_place(rows: Sequence[tuple[float, ...]]) -> dict[int, float]:
    """The mean at each place, over the rows that are long enough."""
    longest = max((len(row) for row in rows), default=0)
    return {place: float(np.mean([row[place] for row in rows if place < len(row)])) for place in range(longest)}
