"""What each transition is worth: step-aware, group-relative advantages (TAFS-GRPO; ARCHITECTURE.md, "Credit").

The credit trap: step k's image is a function of the state x[k], so its reward r_k cannot depend on the action of
transition k, which is x[k+1]. A transition is credited with rewards of *later* steps only; r_k may serve as its
baseline. Each mode is a pure function from rewards [G, K] to the future term and the baseline of every transition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REGRESSED = ("gain", "control_variate")
"""Modes whose baseline is always weighed by its regression on the future term: the next image's gain,
A_k = r_{k+1} - b_k r_k, and the final image's."""

FLOOR = 0.01
"""The smallest divisor of an advantage, in units of the scorer's declared range."""


@dataclass(frozen=True, slots=True, eq=False)
class Rewards:
    """One reward's values for one group, with the transitions that want an advantage."""

    values: Floats  # [G, K]; K counts a sample's images
    scored: NDArray[np.bool_]  # [K]; values of other steps are never read
    transitions: tuple[int, ...]  # the T steps whose transitions are trained
    span: float  # width of the scorer's declared range
    first_after: int = 1  # how many steps after its own a transition's first image comes; 0 in x0-space
    strides: tuple[int, ...] | None = None  # of a branching group: how many neighbours share x[0] .. x[K]
    step_weights: tuple[float, ...] | None = None  # [K] factors in to_go's sum; None: 1 throughout


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """The raw worth of one transition: future - gain * baseline."""

    future: Floats  # [G]
    baseline: Floats | None  # [G] a reward the transition cannot influence
    reads: tuple[int, ...]  # the later steps that `future` is made of


Mode = Callable[[Rewards, int], Term]
"""The term of the transition that leaves a step."""


def later_steps(rewards: Rewards, step: int) -> list[int]:
    """Scored steps whose images transition `step` can influence. ValueError where there are none."""
    later = [k for k in range(step + rewards.first_after, len(rewards.scored)) if rewards.scored[k]]
    if not later:
        raise ValueError(f"transition {step} has no scored later step; scored are {np.flatnonzero(rewards.scored)}")
    return later


def baseline_of(rewards: Rewards, step: int) -> Floats | None:
    """The reward of the last scored image before the action (in x0-space of an earlier step, else up to `step`)."""
    earlier = [k for k in range(step + rewards.first_after) if rewards.scored[k]]
    return rewards.values[:, earlier[-1]] if earlier else None


def gae(lam: float) -> Mode:
    """A_k = sum_{j>=k} lam^(j-k) (r_{j+1} - r_j), between successive scored steps: lam = 0 is the gain of the next
    step, lam = 1 telescopes to r_{K-1} - r_k (generalized advantage estimation, arXiv 1506.02438, with the reward of
    the one-step prediction as the value).
    """

    def term(rewards: Rewards, step: int) -> Term:
        later = later_steps(rewards, step)
        weights = [(1.0 - lam) * lam**j for j in range(len(later) - 1)] + [lam ** (len(later) - 1)]
        future, reads = _weighted(rewards, later, weights)
        return Term(future, baseline_of(rewards, step), reads)

    return term


def to_go(gamma: float) -> Mode:
    """A_k = sum_{j>k} gamma^(j-k-1) w_j r_j over scored steps, j - k counted in these."""

    def term(rewards: Rewards, step: int) -> Term:
        later = later_steps(rewards, step)
        factors = rewards.step_weights or (1.0,) * len(rewards.scored)
        weights = [gamma**j * factors[k] for j, k in enumerate(later)]
        future, reads = _weighted(rewards, later, weights)
        return Term(future, None, reads)

    return term


def _weighted(rewards: Rewards, steps: Sequence[int], weights: Sequence[float]) -> tuple[Floats, tuple[int, ...]]:
    """The weighted sum of steps' rewards, and the steps with a weight: no other value is read, whatever it is."""
    reads = tuple(step for step, weight in zip(steps, weights, strict=True) if weight != 0.0)
    total: Floats = rewards.values[:, list(reads)] @ np.array([weight for weight in weights if weight != 0.0])
    return total, reads


def next_step(rewards: Rewards, step: int) -> Term:
    """A_k = r_{k+1}, the reward of the next scored step."""
    later = later_steps(rewards, step)[0]
    return Term(rewards.values[:, later], None, (later,))


def terminal(rewards: Rewards, step: int) -> Term:
    """A_k = r_{K-1}: the final image's reward for every transition (Flow-GRPO, DanceGRPO)."""
    last = later_steps(rewards, step)[-1]
    return Term(rewards.values[:, last], None, (last,))


def control_variate(rewards: Rewards, step: int) -> Term:
    """A_k = r_{K-1} - b_k r_k; the gain b_k is estimated by `advantages` on the batch's other groups."""
    last = later_steps(rewards, step)[-1]
    return Term(rewards.values[:, last], baseline_of(rewards, step), (last,))


def same_step(rewards: Rewards, step: int) -> Term:
    """A_k = r_k: the credit trap itself, whose expected gradient is exactly zero. A control for experiments; refused
    unless asked for by name.
    """
    own = baseline_of(rewards, step)
    if own is None:
        raise ValueError(f"transition {step} has no scored step of its own")
    return Term(own, None, (step,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """How rewards become advantages."""

    mode: Mode
    regress_baseline: bool = False  # estimate the baseline's gain b_k instead of 1
    terminal_share: float = 0.0  # a in (1 - a) N(mode) + a N(terminal)
    scale: str = "group"  # what the divisor's std is taken over: group | batch | none


def build_credit(
    mode: str, lam: float, gamma: float, terminal_share: float, scale: str, regress_baseline: bool = False
) -> Credit:
    """The credit of a run file's `learning.advantage`. ValueError for an unknown mode or scale."""
    modes: dict[str, Mode] = {
        "gain": gae(0.0),
        "gae": gae(lam),
        "control_variate": control_variate,
        "to_go": to_go(gamma),
        "next": next_step,
        "terminal": terminal,
        "same_step": same_step,
    }
    if mode not in modes or scale not in ("group", "batch", "none"):
        raise ValueError(f"expected mode in {list(modes)} and scale group, batch or none; found {mode}, {scale}")
    regress = regress_baseline or mode in REGRESSED
    return Credit(mode=modes[mode], regress_baseline=regress, terminal_share=terminal_share, scale=scale)


def steps_read(credit: Credit, num_images: int, transitions: tuple[int, ...], first_after: int = 1) -> tuple[int, ...]:
    """The steps whose rewards the credit reads, the final image always among them: the others need neither be decoded
    nor scored.
    """
    every = Rewards(np.zeros((1, num_images)), np.ones(num_images, dtype=bool), transitions, 1.0, first_after)
    read = {num_images - 1}
    for step in transitions:
        term = credit.mode(every, step)
        read |= set(term.reads) | ({step + first_after - 1} if term.baseline is not None else set())
    return tuple(sorted(read))


def advantages(batch: Sequence[Rewards], credit: Credit) -> list[Floats]:
    """Advantages [G, T] of every group of a batch for one reward.

    Each column is centred over the group and divided by the std of its future term (never of the difference), with a
    floor of 0.01 of the scorer's range. Where every future reward that a transition reads is equal over the group,
    its advantage is exactly 0, whatever the baseline says.
    """
    main = _normalised(batch, credit.mode, credit.regress_baseline, credit.scale)
    if credit.terminal_share == 0.0:
        return main
    final = _normalised(batch, terminal, False, credit.scale)
    share = credit.terminal_share
    return [(1.0 - share) * step_term + share * last for step_term, last in zip(main, final, strict=True)]


def _normalised(batch: Sequence[Rewards], mode: Mode, regress: bool, scale: str) -> list[Floats]:
    """Groups with as many images share what is estimated over the batch: a step means the same in them."""
    columns = [{step: mode(rewards, step) for step in rewards.transitions} for rewards in batch]
    result = []
    for group, rewards in enumerate(batch):
        alike = [index for index, other in enumerate(batch) if len(other.scored) == len(rewards.scored)]
        table = np.zeros((len(rewards.values), len(rewards.transitions)))
        for column, step in enumerate(rewards.transitions):
            term = columns[group][step]
            if _saturated(rewards.values, term.reads):
                continue
            others = [columns[index][step] for index in alike if index != group and step in columns[index]]
            gain = baseline_gain(others) if regress else 1.0
            worth = _worth(term, gain) if rewards.strides is None else _worth_in_tree(term, gain, rewards.strides, step)
            table[:, column] = worth / _divisor(term, [term, *others], scale, rewards.span)
        result.append(table)
    return result


def _worth(term: Term, gain: float) -> Floats:
    worth = _centred(term.future)
    return worth if term.baseline is None else worth - gain * _centred(term.baseline)


def _worth_in_tree(term: Term, gain: float, strides: tuple[int, ...], step: int) -> Floats:
    """[G] where samples share prefixes: the mean future of those behind an action, against its siblings where it has
    any (the same state, so that no baseline is needed), else against the group. The mean leaves the action itself out,
    so that transitions with few siblings are worth as much as others.
    """
    behind, siblings = strides[step + 1], strides[step] // strides[step + 1]
    future = term.future.reshape(-1, behind).mean(1)
    if siblings > 1:
        family = future.reshape(-1, siblings)
        worth = (family - family.mean(1, keepdims=True)) * siblings / (siblings - 1)
        worth[np.ptp(family, axis=1) == 0.0] = 0.0
        return np.repeat(worth.reshape(-1), behind)
    if len(future) == 1:  # one action in the whole group: nothing to compare it with
        return np.zeros(len(term.future))
    rest = None if term.baseline is None else term.baseline.reshape(-1, behind).mean(1)
    lonely = _worth(Term(future, rest, term.reads), gain) * len(future) / (len(future) - 1)
    return np.repeat(lonely, behind)


def baseline_gain(terms: Sequence[Term]) -> float:
    """B = cov(future, baseline) / var(baseline) within groups, pooled over `terms`; 0 where it cannot be told."""
    covariance = variance = 0.0
    for term in terms:
        if term.baseline is not None:
            baseline = _centred(term.baseline)
            covariance += float(_centred(term.future) @ baseline)
            variance += float(baseline @ baseline)
    return covariance / variance if variance > 1e-12 else 0.0


def _divisor(term: Term, same_column: Sequence[Term], scale: str, span: float) -> float:
    if scale == "none":
        return 1.0
    spread = [term] if scale == "group" else same_column
    variance = float(np.mean([np.var(t.future) for t in spread]))
    return max(math.sqrt(variance), FLOOR * span)


def _centred(values: Floats) -> Floats:
    centred: Floats = values - values.mean()
    return centred


def _saturated(values: Floats, reads: tuple[int, ...]) -> bool:
    return bool(np.all(np.ptp(values[:, list(reads)], axis=0) == 0.0))
