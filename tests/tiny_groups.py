"""Scored groups drawn honestly by a tiny policy."""

from dataclasses import replace

import numpy as np
import torch

from learner.advantage import build_credit
from learner.combination import Weighting
from learner.loss import Objective
from learner.optimizer import RateSchedule
from learner.update import LearnerSpec
from rollout.lora import attach_adapter
from rollout.policy import conditions_of
from rollout.process import process_of
from rollout.sampler import named_noise, sample
from rollout.schedule import uniform_grid
from rollout.trained import digest_tensors, trained_tensors
from rollout.types import Behaviour, Prompt, RolloutGroup, ScoredGroup, StepRewards, WeightsVersion
from tests.tiny_policies import TinyPolicy

HEIGHT, WIDTH = 2, 3


def adapted_policy(seed=0):
    """A tiny policy with a LoRA adapter, as it is trained."""
    policy = TinyPolicy(seed)
    attach_adapter(policy.network, policy.adapter_targets, 4, 8.0, seed)
    return policy


def behaviour(num_steps=4, tau=0.9):
    return Behaviour(sigmas=uniform_grid(num_steps), temperatures=(tau,) * num_steps, height=HEIGHT, width=WIDTH)


def draw_group(policy, ordinal, num_samples=4, how=None, reward=None, text=None, references=()):
    """A group of the policy's samples, rewarded at every step by a function of the images' latents [G, K, ...]."""
    how = how or behaviour()
    prompt = Prompt(id=str(ordinal), text=text or f"prompt {ordinal}", references=references)
    conditions = conditions_of(policy, prompt).take([0] * num_samples)
    noise = named_noise(policy, how, 3, ordinal, range(num_samples))
    drawn = sample(policy, conditions, process_of(how), noise)
    digest = digest_tensors(trained_tensors(policy.network))
    group = RolloutGroup(
        ordinal=ordinal,
        attempt=0,
        prompt=prompt,
        behaviour=how,
        weights=WeightsVersion(version=1, update=0, lineage=0, digest=digest),
        trajectory=drawn.trajectory,
    )
    values = drawn.clean.flatten(2).mean(2) if reward is None else reward(drawn.clean)
    return ScoredGroup(group=group, rewards=(rewards_of(values),))


def rewards_of(values, name="brightness", span=1.0, scored=None):
    values = np.asarray(values, dtype=np.float32)
    every = np.ones(values.shape[1], dtype=bool)
    return StepRewards(name=name, range=(0.0, span), values=values, scored=every if scored is None else scored)


def with_values(group, values, **options):
    """The group with other rewards."""
    return replace(group, rewards=(rewards_of(values, **options),))


def with_trajectory(scored, **tensors):
    """The group with a part of its trajectory replaced."""
    trajectory = replace(scored.group.trajectory, **tensors)
    return replace(scored, group=replace(scored.group, trajectory=trajectory))


def draw_groups(policy, count=3, first=0, **options):
    return [draw_group(policy, ordinal, **options) for ordinal in range(first, first + count)]


def spec(mode="terminal", rate=1e-2, objective=None, **options):
    """A learner's constants without warm-up or gradient clipping, so that what it does is its gradient's doing."""
    credit = options.pop("credit", None) or build_credit(mode, 1.0, 1.0, 0.0, "group")
    options.setdefault("max_grad_norm", 1e9)
    return LearnerSpec(
        credit=credit,
        objective=objective or Objective(),
        weightings=options.pop("weightings", None) or {"brightness": Weighting()},
        rates=RateSchedule(rate=rate, warmup_updates=0),
        **options,
    )


def gradient_after_one_step(learner):
    """The gradient [P] of the learner's only optimizer step so far, read from AdamW's first moment."""
    moments = learner.tensors()["optimizer"]
    share = 1.0 - learner.spec.betas[0]
    return torch.cat([moments[f"{name}/exp_avg"].flatten() / share for name in learner.parameters])


def flat_weights(learner):
    return torch.cat([parameter.detach().flatten() for parameter in learner.parameters.values()])


def fingerprint(learner):
    """Digests of everything that an update may change."""
    return {name: digest_tensors(tensors) for name, tensors in learner.tensors().items()}
