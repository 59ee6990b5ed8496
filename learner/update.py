"""One update: scored groups in, changed weights and a report out.

groups -> advantages -> stacks -> [guard] -> for each optimizer step: micro-batches -> sum over ranks -> AdamW -> EMA
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.advantage import Credit
from learner.batching import Pairs, Stack, alike, build_pairs, rows_of_each
from learner.combination import Weighting, baseline_gains, group_advantages
from learner.ema import Average
from learner.guard import RatioGuardError, check_drift, check_guidance
from learner.loss import Objective, PairLoss, behaviour_means, drift, means, pair_loss
from learner.nft import NegativeAware, forward_pairs, nft_loss
from learner.optimizer import RateSchedule, build_adamw, load_optimizer_tensors, optimizer_tensors
from learner.ranks import Alone, Ranks, all_agree
from learner.report import Tally, UpdateReport, build_report, reward_statistics
from learner.temperature import SpreadTarget, TemperatureControl
from rollout.lora import has_adapter, reference
from rollout.policy import Conditions, Policy, conditions_of
from rollout.seeding import named_seed
from rollout.trained import load_tensors, trained_tensors
from rollout.types import ScoredGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """How to learn."""

    credit: Credit
    objective: Objective
    weightings: Mapping[str, Weighting]  # of the rewards, by name
    rates: RateSchedule
    optimizer_steps: int = 1  # per update; each takes an equal share of the pairs
    micro_batch: int = 48  # pairs per network call
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    ema_decay: float = 0.9
    nft: NegativeAware | None = None  # instead of the objective
    spread: SpreadTarget | None = None  # None: temperatures are the run file's
    seed: int = 0  # of the order of pairs where there are several optimizer steps


class Learner:
    """Owns the policy's trained tensors, their optimizer and their average."""

    def __init__(self, policy: Policy, spec: LearnerSpec, ranks: Ranks | None = None) -> None:
        if spec.objective.kl_weight > 0.0 and not has_adapter(policy.network):
            raise ValueError(
                "a KL to the reference needs an adapter to switch off: expected `learning.kl_weight: 0` with full "
                "fine-tuning, or `model.lora`"
            )
        self.policy = policy
        self.spec = spec
        self.ranks: Ranks = ranks or Alone()
        self.parameters = trained_tensors(policy.network)
        self.optimizer = build_adamw(self.parameters.values(), spec.weight_decay, spec.betas)
        self.average = Average(self.parameters, spec.ema_decay)
        self.control = None if spec.spread is None else TemperatureControl(spec.spread)
        self.updates_done = 0

    @property
    def temperatures(self) -> tuple[float, ...]:
        """K, that the next groups are to be drawn with; () = those of the run file."""
        return () if self.control is None else self.control.temperatures

    def update(self, groups: Sequence[ScoredGroup], *, guard: bool) -> UpdateReport:
        """One update on whole groups, the same list on every rank.

        guard: the groups were drawn with the live weights, so that every pair's drift must be rounding. Raises
        RatioGuardError, on all ranks and before anything is changed, where it is not, or where a group was drawn with
        another guidance.
        """
        check_guidance(groups, self.policy.guidance)
        stacks = self._stacks(groups)
        guard = guard and self.spec.nft is None  # which asks for no density
        tally = Tally()
        rate = self.spec.rates.at(self.updates_done)
        shares = self._shares([len(stack) for stack in stacks])
        anchors = [self._velocities(stack) for stack in stacks] if len(shares) > 1 else None
        for index, share in enumerate(shares):
            parts = [stack.take(rows) for stack, rows in zip(stacks, share, strict=True)]
            total = sum(float(part.pairs.count.sum()) for part in parts)
            for place, (part, rows) in enumerate(zip(parts, share, strict=True)):
                self._accumulate(part, None if anchors is None else anchors[place][rows], total, tally)
            if guard and index == 0:
                measured = tally.drift_max if anchors is None else _drift_by_step(stacks, anchors)
                self._agree_on_drift(measured, tally)
            self._step(rate, tally)
        if self.control is not None:
            number = self.updates_done + 1
            self.control.follow(groups, {name: w.at(number) for name, w in self.spec.weightings.items()})
        self.updates_done += 1
        self.average.follow(self.parameters, self.updates_done)
        rewards = reward_statistics(groups, self.spec.weightings, self.updates_done)
        gains = baseline_gains(groups, self.spec.credit, self.spec.weightings)
        return build_report(
            groups,
            [stack.pairs for stack in stacks],
            tally.over(self.ranks),
            update=self.updates_done,
            rate=rate,
            gains=gains,
            rewards=rewards,
        )

    def check_group(self, group: ScoredGroup, weights: Mapping[str, Tensor]) -> float:
        """The largest drift of a group drawn with older `weights`, recomputed with them. Raises RatioGuardError."""
        check_guidance([group], self.policy.guidance)
        pairs = self._pairs([group], [np.zeros((group.group.num_samples, len(group.group.trajectory.transitions)))])
        with self.holding(weights):
            stack = Stack(pairs, self._encode(group))
            measured = _drift_by_step([stack], [self._velocities(stack)])
        check_drift(measured, self._dtype)
        return max(measured.values())

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything that changes from update to update, for a checkpoint."""
        control = {} if self.control is None else {"control": self.control.tensors()}
        return {
            **control,
            "trained": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "average": dict(self.average.tensors),
            "optimizer": optimizer_tensors(self.optimizer, list(self.parameters)),
        }

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]], updates_done: int) -> None:
        """Go on from a checkpoint."""
        load_tensors(self.policy.network, tensors["trained"])
        self.average.load(tensors["average"])
        load_optimizer_tensors(self.optimizer, list(self.parameters), tensors["optimizer"])
        if self.control is not None and "control" in tensors:
            self.control.load(tensors["control"])
        self.updates_done = updates_done

    @contextmanager
    def holding(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the context the network computes with other trained tensors."""
        live = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        load_tensors(self.policy.network, tensors)
        try:
            yield
        finally:
            load_tensors(self.policy.network, live)

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.policy.network.parameters())).dtype

    def _stacks(self, groups: Sequence[ScoredGroup]) -> list[Stack]:
        tables = group_advantages(groups, self.spec.credit, self.spec.weightings, self.updates_done + 1)
        conditions = [self._encode(group) for group in groups]
        stacks = []
        for index, places in enumerate(alike(groups, conditions)):
            chosen, credits = [groups[place] for place in places], [tables[place] for place in places]
            if self.spec.nft is None:
                pairs = self._pairs(chosen, credits)
            else:
                seed = named_seed("forward", self.spec.seed, self.updates_done, index)
                pairs = forward_pairs(chosen, credits, seed).to(self._device)
            stacks.append(Stack(pairs, Conditions.concatenate([conditions[place] for place in places])))
        return stacks

    def _pairs(self, groups: Sequence[ScoredGroup], tables: Sequence[NDArray[np.float64]]) -> Pairs:
        return build_pairs(groups, tables).to(self._device)

    @property
    def _device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def _encode(self, group: ScoredGroup) -> Conditions:
        return conditions_of(self.policy, group.group.prompt)

    def _agree_on_drift(self, measured: Mapping[int, float], tally: Tally) -> None:
        """The ratio guard, on all ranks alike: a rank that raised alone would leave its peers waiting for a sum."""
        problem: RatioGuardError | None = None
        try:
            check_drift(measured, self._dtype)
        except RatioGuardError as error:
            problem = error
        if not all_agree(self.ranks, problem is None):
            self.optimizer.zero_grad()
            raise problem or RatioGuardError("another rank's ratio guard is broken; its message tells where")
        tally.guard_drift = max(measured.values(), default=math.nan)

    def _velocity(self, batch: Stack) -> Tensor:
        pairs = batch.pairs
        return self.policy.velocity(pairs.states, pairs.sigma, batch.conditions.take(pairs.prompt))

    @torch.no_grad()
    def _velocities(self, stack: Stack) -> Tensor:
        rows = torch.split(torch.arange(len(stack)), self.spec.micro_batch)
        return torch.cat([self._velocity(stack.take(part)) for part in rows])

    def _shares(self, sizes: Sequence[int]) -> list[list[Tensor]]:
        """By optimizer step the rows of each stack: all, or a seeded shuffle of all pairs in equal parts."""
        if self.spec.optimizer_steps == 1:
            return [[torch.arange(size) for size in sizes]]
        generator = torch.Generator().manual_seed(named_seed("shuffle", self.spec.seed, self.updates_done))
        shuffled = torch.randperm(sum(sizes), generator=generator)
        return [rows_of_each(rows, sizes) for rows in shuffled.tensor_split(self.spec.optimizer_steps)]

    def _accumulate(self, stack: Stack, anchor: Tensor | None, total: float, tally: Tally) -> None:
        """Gradients of this rank's pairs of one optimizer step in one stack. anchor: the velocities [n, C, h, w] when
        the update began, or None where that is now. total: pairs of the optimizer step, over all ranks and stacks.
        Pairs without advantage change nothing, unless there is a KL, and are left out; they still count in the mean.
        """
        pairs = stack.pairs
        mine = torch.arange(self.ranks.rank, len(pairs), self.ranks.size, device=pairs.advantage.device)
        needed = mine if self.spec.objective.kl_weight > 0.0 else mine[pairs.advantage[mine] != 0.0]
        for start in range(0, len(needed), self.spec.micro_batch):  # never an empty call, where there is nothing to do
            rows = needed[start : start + self.spec.micro_batch]
            batch = stack.take(rows)
            result = self._pair_loss(batch, None if anchor is None else anchor[rows], tally)
            ((batch.pairs.count * result.loss).sum() / total).backward()  # type: ignore[no-untyped-call]
            tally.add(batch.pairs, result)
        tally.pairs += len(mine)
        tally.skipped += len(mine) - len(needed)

    def _pair_loss(self, batch: Stack, anchor: Tensor | None, tally: Tally) -> PairLoss:
        v = self._velocity(batch)
        with_kl = self.spec.objective.kl_weight > 0.0
        v_reference = None
        if with_kl or (tally.distance is None and has_adapter(self.policy.network)):
            with torch.no_grad(), reference(self.policy.network):
                v_reference = self._velocity(batch)
            tally.measure_distance(v.detach(), v_reference)
        v_old = v.detach() if anchor is None else anchor
        if self.spec.nft is not None:
            return nft_loss(batch.pairs, v, v_old, self.spec.nft)
        return pair_loss(batch.pairs, v, v_old, v_reference if with_kl else None, self.spec.objective)

    def _step(self, rate: float, tally: Tally) -> None:
        """One optimizer step on the gradients of all ranks, unless they are not finite on any of them."""
        self._sum_gradients()
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.spec.max_grad_norm))
        good = all_agree(self.ranks, math.isfinite(norm))
        if good and norm > 0.0:  # where nothing has an advantage, old momentum must not move the weights either
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad()
        tally.grad_norm = norm
        tally.trained = tally.trained and good

    def _sum_gradients(self) -> None:
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters.values()]
        flat = self.ranks.sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for parameter, part in zip(self.parameters.values(), parts, strict=True):
            parameter.grad = part.view_as(parameter)


def _drift_by_step(stacks: Sequence[Stack], velocities: Sequence[Tensor]) -> dict[int, float]:
    """By step: the largest drift of the means with these velocities from the behaviour policy's."""
    worst: dict[int, float] = {}
    for stack, v in zip(stacks, velocities, strict=True):
        pairs = stack.pairs
        r = drift(behaviour_means(pairs), means(pairs, v), pairs.std)
        for step in set(pairs.step.tolist()):
            here = float(r[pairs.step == step].max())
            worst[step] = float(np.maximum(worst.get(step, 0.0), here))  # max() would drop a NaN, and the guard with it
    return worst
