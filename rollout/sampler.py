"""Sampling: the loop of the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rollout.branching import strides
from rollout.kernel import Transition, one_step_sample, transition_mean
from rollout.policy import Conditions, Policy
from rollout.process import num_images
from rollout.seeding import INITIAL, environment, sample_seeds
from rollout.types import Behaviour, Trajectory

Noise = Callable[[int], Tensor]
"""Standard normal noise [n, C, h, w] float32 of a step: INITIAL for x[0], k for z_k, environment(k) for n_k."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What one call of the sampler produced for n samples."""

    trajectory: Trajectory  # the transitions that have a density
    clean: Tensor  # [n, images, C, h, w] float32, what is scored; x0_hat of every step unless process.py says otherwise


def named_noise(policy: Policy, behaviour: Behaviour, run_seed: int, ordinal: int, samples: Sequence[int]) -> Noise:
    """The noise of a group's samples as a function of names alone (see `seeding`)."""

    def noise(step: int) -> Tensor:
        seeds = sample_seeds(run_seed, ordinal, samples, step)
        return policy.initial_latents(seeds, behaviour.height, behaviour.width)

    return noise


def together(noises: Sequence[Noise]) -> Noise:
    """The noise of several groups' samples, one after another."""
    return lambda step: torch.cat([noise(step) for noise in noises])


@torch.no_grad()
def sample(
    policy: Policy,
    conditions: Conditions,
    process: Sequence[Transition],
    noise: Noise,
    branching: Sequence[int] = (),
) -> Drawn:
    """Draw one sample per row of `conditions` by K model calls, keeping every step's image.

    For each step: v = model(x, sigma); x0_hat = x - sigma v; x' = mean(x, v) + std z (TAFS-GRPO, kernel.py). With a
    branching (branching.py) all rows are of one prompt, and rows that share a state share its call.
    """
    states, actions, noises, cleans = [], [], [], []
    x = noise(INITIAL)
    shared = strides(branching, len(x), len(process))
    x = x[:: shared[0]]
    for transition, stride, stride_next in zip(process, shared, shared[1:], strict=False):
        sigma = torch.full((len(x),), transition.sigma, device=x.device)
        rows = conditions if stride == 1 else conditions.take(range(0, len(x) * stride, stride))
        v = policy.velocity(x, sigma, rows)
        mean = transition_mean(x, v, transition.state_gain, transition.velocity_gain)
        action = _each(mean, stride // stride_next)
        if transition.std > 0.0:
            z = noise(transition.step)[::stride_next]
            action = action + transition.std * z
            states.append(_each(x, stride))
            actions.append(_each(action, stride_next))
            noises.append(_each(z, stride_next))
        if transition.shows_action:
            cleans.append(_each(action, stride_next))
        else:
            cleans.append(_each(one_step_sample(x, v, transition.sigma), stride))
        x = action
        if transition.fresh > 0.0:
            x = transition.carry * action + transition.fresh * noise(environment(transition.step))[::stride_next]
    if num_images(process) > len(process):
        cleans.append(x)
    transitions = tuple(transition.step for transition in process if transition.std > 0.0)
    trajectory = Trajectory(
        transitions=transitions,
        states=_over_steps(states, cleans[0]),
        actions=_over_steps(actions, cleans[0]),
        noise=_over_steps(noises, cleans[0]),
    )
    return Drawn(trajectory, torch.stack(cleans, dim=1))


def diversity(clean: Tensor) -> tuple[float, ...]:
    """How far a group's samples [n, images, C, h, w] are from each other: by image, the root mean square distance per
    dimension from their mean.
    """
    spread: list[float] = (clean - clean.mean(0)).square().flatten(2).mean((0, 2)).sqrt().tolist()
    return tuple(spread)


def _each(rows: Tensor, times: int) -> Tensor:
    """Every row so many times, one after another."""
    return rows if times == 1 else rows.repeat_interleave(times, dim=0)


def _over_steps(tensors: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(tensors, dim=1) if tensors else like.new_empty((len(like), 0, *like.shape[1:]))
