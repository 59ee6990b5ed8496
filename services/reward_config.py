"""The run file's rewards: what is scored at which steps, and how much it counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from services.block import Block, Positive


class GateConfig(Block):
    """A condition under which a reward counts."""

    reward: str
    """Name of another reward of this run; with weight 0 it is nothing but the gate."""
    at_least: float
    """The score that lets a sample pass. One that does not counts as the worst of its group."""


class RewardConfig(Block):
    """One reward."""

    use: str
    """A built-in reward's name, or `package.module:function` of your own."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")] | None = None
    """In metrics, reports and gates; None = what stands under `use`. Needed where one is used twice."""
    weight: float | dict[int, float] = 1.0
    """Share in the sum of advantages, after each reward was normalised by itself; negative = a penalty, 0 = only
    watched, or a gate. Or weights by update, {1: 1.0, 100: 0.2}: linear in between, constant before and after."""
    steps: Literal["final"] | tuple[int, ...] | None = None
    """Steps whose images are scored, from 0: "final" = the finished image alone, for a judge that costs much; None =
    all that the advantage reads. The last step is always one of them."""
    step_weights: tuple[float, ...] | None = None
    """One factor per step of the grid in the advantage's sum over later steps (mode to_go); a step of factor 0 is not
    scored. None = 1 throughout."""
    gate: GateConfig | None = None
    """Count only where another reward passes; None = always."""
    batch_images: Positive = 64
    """Images in one call, at most: those of several groups together, a large group in parts."""
    options: dict[str, Any] = Field(default={})
    """Passed to the reward when it is built."""

    @property
    def title(self) -> str:
        """Its name in this run."""
        return self.name or self.use

    @property
    def weights(self) -> tuple[tuple[int, float], ...]:
        """(update, weight), rising."""
        return tuple(sorted(self.weight.items())) if isinstance(self.weight, Mapping) else ((1, self.weight),)

    @model_validator(mode="after")
    def _counts_somehow(self) -> Self:
        if not self.weights or any(update < 1 or not math.isfinite(weight) for update, weight in self.weights):
            raise ValueError(f"expected a finite `weight`, or weights by update from 1 on; found {self.weight}")
        if self.steps is not None and self.step_weights is not None:
            raise ValueError("`steps` has no effect beside `step_weights`: a step of factor 0 is not scored")
        if any(not math.isfinite(factor) or factor < 0.0 for factor in self.step_weights or ()):
            raise ValueError(f"expected `step_weights` that are finite and not negative; found {self.step_weights}")
        return self


def steps_of(reward: RewardConfig, read: Sequence[int], num_steps: int) -> tuple[int, ...]:
    """The steps, rising, whose images this reward scores, of those that the advantage reads."""
    if reward.steps == "final":
        return (num_steps - 1,)
    if reward.step_weights is not None:
        return tuple(step for step, factor in enumerate(reward.step_weights) if factor > 0.0)
    return tuple(read) if reward.steps is None else tuple(sorted(reward.steps))


def check_rewards(rewards: Sequence[RewardConfig], mode: str, read: Sequence[int], num_steps: int) -> None:
    """Raise ValueError for rewards that do not fit each other or the advantage.

    mode: the advantage's. read: the steps that it reads. num_steps: K.
    """
    titles = [reward.title for reward in rewards]
    twice = next((title for title in titles if titles.count(title) > 1), None)
    if twice is not None:
        raise ValueError(
            f"rewards: expected each reward once, found {twice!r} {titles.count(twice)} times; "
            "give each its own rewards[i].name"
        )
    if all(weight == 0.0 for reward in rewards for _, weight in reward.weights):
        raise ValueError("rewards: expected one with a weight, found only zeros; nothing would be trained")
    for place, reward in enumerate(rewards):
        where = f"rewards[{place}] ({reward.title})"
        _check_steps(where, reward, mode, read, num_steps)
        if reward.gate is not None:
            _check_gate(where, reward, rewards, read, num_steps)


def _check_steps(where: str, reward: RewardConfig, mode: str, read: Sequence[int], num_steps: int) -> None:
    if reward.step_weights is not None:
        if mode != "to_go":
            raise ValueError(
                f"{where}: `step_weights` has no effect in mode {mode}; set learning.advantage.mode to to_go"
            )
        if len(reward.step_weights) != num_steps:
            raise ValueError(
                f"{where}: expected {num_steps} step_weights, one per image of a sample; "
                f"found {len(reward.step_weights)}"
            )
    key = "steps" if reward.step_weights is None else "step_weights"
    steps = steps_of(reward, read, num_steps)
    beyond = [step for step in steps if step not in read]
    if beyond or len(set(steps)) != len(steps):
        raise ValueError(
            f"{where}: expected `{key}` among the steps that mode {mode} reads, {list(read)}, each once; "
            f"found {list(steps)}"
        )
    if num_steps - 1 not in steps:
        raise ValueError(
            f"{where}: expected `{key}` with the last step, {num_steps - 1}, which every transition is credited with; "
            f"found {list(steps)}"
        )


def _check_gate(
    where: str, reward: RewardConfig, rewards: Sequence[RewardConfig], read: Sequence[int], num_steps: int
) -> None:
    assert reward.gate is not None
    others = {other.title: other for other in rewards if other is not reward}
    if reward.gate.reward not in others:
        raise ValueError(
            f"{where}: expected `gate.reward` to name another reward of the run "
            f"({', '.join(others) or 'there is none'}); found {reward.gate.reward!r}"
        )
    scored = steps_of(others[reward.gate.reward], read, num_steps)
    missing = [step for step in steps_of(reward, read, num_steps) if step not in scored]
    if missing:
        raise ValueError(
            f"{where}: expected its gate {reward.gate.reward!r} to be scored wherever it is itself; found no "
            f"score of it at the steps {missing}; change `steps` of one of them"
        )
