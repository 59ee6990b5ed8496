"""A policy whose every gradient is known: one number per image, v = theta[step] + C x, the reward the image itself.

All is linear, so that the expectation of an image follows from the chain of means, and autograd through that chain is
the true gradient by theta: what a step's direct effect and its effect through later states are worth.
"""

import numpy as np
import torch

from learner.batching import build_pairs
from learner.loss import Objective, pair_loss
from rollout.kernel import one_step_sample, transition_mean
from rollout.policy import Conditions
from rollout.process import num_images, process_of
from rollout.sampler import sample
from rollout.types import Behaviour, Prompt, RolloutGroup, ScoredGroup, StepRewards, WeightsVersion

C = 0.4
GRID = (1.0, 0.7, 0.4, 0.0)
NAMELESS = WeightsVersion(version=0, update=0, lineage=0, digest="")


def chain_behaviour(sigmas=GRID, taus=(0.9, 0.8, 0.8), **options):
    return Behaviour(sigmas=sigmas, temperatures=taus, height=1, width=1, **options)


class LinearPolicy:
    """v = theta[step] + C x; theta 0 unless told."""

    def __init__(self, sigmas=GRID, theta=None):
        self.sigmas = sigmas
        self.theta = torch.zeros(len(sigmas) - 1) if theta is None else theta

    def encode(self, prompts):
        return Conditions({"prompt": torch.zeros(len(prompts), 1)})

    def velocity(self, x, sigma, conditions):
        assert len(conditions.tensors["prompt"]) == len(x)
        levels = torch.tensor(self.sigmas[:-1])
        step = (sigma[:, None] - levels[None, :]).abs().argmin(1)
        return self.theta[step].view(-1, 1, 1, 1) + C * x


def gaussian(num_samples, seed):
    """Noise by step: a function of seed and step."""

    def noise(step):
        generator = torch.Generator().manual_seed(1000 * seed + step + 100)
        return torch.randn(num_samples, 1, 1, 1, generator=generator)

    return noise


def draw_chain(behaviour, num_samples, seed=0):
    """A group whose reward is the image."""
    policy, process = LinearPolicy(behaviour.sigmas), process_of(behaviour)
    conditions = policy.encode([""]).take([0] * num_samples)
    drawn = sample(policy, conditions, process, gaussian(num_samples, seed), behaviour.branching)
    values = drawn.clean.flatten(1).numpy()
    reward = StepRewards(name="image", range=(0.0, 1.0), values=values, scored=np.ones(values.shape[1], dtype=bool))
    group = RolloutGroup(
        ordinal=seed,
        attempt=0,
        prompt=Prompt(id="0", text=""),
        behaviour=behaviour,
        weights=NAMELESS,
        trajectory=drawn.trajectory,
    )
    return ScoredGroup(group=group, rewards=(reward,))


def true_gradient(behaviour, image=-1):
    """[K] d E[image] / d theta."""
    process = process_of(behaviour)
    theta = torch.zeros(len(process), dtype=torch.float64, requires_grad=True)
    x, images = torch.zeros((), dtype=torch.float64), []
    for transition in process:
        v = theta[transition.step] + C * x
        action = transition_mean(x, v, transition.state_gain, transition.velocity_gain)
        images.append(action if transition.shows_action else one_step_sample(x, v, transition.sigma))
        x = transition.carry * action
    if num_images(process) > len(process):
        images.append(x)
    (gradient,) = torch.autograd.grad(images[image], theta)
    return gradient.numpy()


def per_sample_gradients(scored, advantage, objective=None):
    """[G, T] each sample's part in the objective's gradient by theta, times G: its mean is the estimate. A shared
    transition's part stands at the first of those that share it.
    """
    pairs = build_pairs([scored], [advantage])
    policy = LinearPolicy(scored.group.behaviour.sigmas)
    rows = policy.encode([""]).take([0] * len(pairs))
    v = policy.velocity(pairs.states, pairs.sigma, rows).requires_grad_()
    result = pair_loss(pairs, v, v.detach(), None, objective or Objective(step_weight="none"))
    (gradient,) = torch.autograd.grad(-(pairs.count * result.loss).sum(), v)
    table = np.zeros((scored.group.num_samples, len(scored.group.trajectory.transitions)))
    for column, step in enumerate(scored.group.trajectory.transitions):
        stride = scored.group.strides[step + 1]
        table[::stride, column] = gradient.flatten()[pairs.step == step].numpy()
    return table


def mean_and_error(table, block=1):
    """[T] mean, and its standard error from blocks of samples that are independent of each other."""
    blocks = table.reshape(-1, block, table.shape[1]).mean(1)
    return blocks.mean(0), blocks.std(0) / len(blocks) ** 0.5
