"""Sampling: the loop of the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rollout.kernel import Transition, one_step_sample, transition_mean
from rollout.policy import Conditions, Policy
from rollout.seeding import INITIAL, sample_seeds
from rollout.types import Behaviour, Trajectory

Noise = Callable[[int], Tensor]
"""Standard normal noise [n, C, h, w] float32 of a step: INITIAL for x[0], k for z_k."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What one call of the sampler produced for n samples."""

    trajectory: Trajectory  # the transitions that have a density
    clean: Tensor  # [n, K, C, h, w] float32, x0_hat of every step; the last one is the final image


def named_noise(policy: Policy, behaviour: Behaviour, run_seed: int, ordinal: int, samples: Sequence[int]) -> Noise:
    """The noise of a group's samples as a function of names alone (see `seeding`)."""

    def noise(step: int) -> Tensor:
        seeds = sample_seeds(run_seed, ordinal, samples, step)
        return policy.initial_latents(seeds, behaviour.height, behaviour.width)

    return noise


@torch.no_grad()
def sample(policy: Policy, conditions: Conditions, process: Sequence[Transition], noise: Noise) -> Drawn:
    """Draw one sample per row of `conditions` by K model calls, keeping every step's one-step prediction.

    For each step: v = model(x, sigma); x0_hat = x - sigma v; x' = mean(x, v) + std z (TAFS-GRPO, kernel.py).
    """
    states, actions, noises, cleans = [], [], [], []
    x = noise(INITIAL)
    for transition in process:
        sigma = torch.full((len(x),), transition.sigma, device=x.device)
        v = policy.velocity(x, sigma, conditions)
        cleans.append(one_step_sample(x, v, transition.sigma))
        x_next = transition_mean(x, v, transition.state_gain, transition.velocity_gain)
        if transition.std > 0.0:
            z = noise(transition.step)
            x_next = x_next + transition.std * z
            states.append(x)
            actions.append(x_next)
            noises.append(z)
        x = x_next
    transitions = tuple(transition.step for transition in process if transition.std > 0.0)
    trajectory = Trajectory(
        transitions=transitions,
        states=_over_steps(states, x),
        actions=_over_steps(actions, x),
        noise=_over_steps(noises, x),
    )
    return Drawn(trajectory, torch.stack(cleans, dim=1))


def _over_steps(tensors: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(tensors, dim=1) if tensors else like.new_empty((len(like), 0, *like.shape[1:]))
