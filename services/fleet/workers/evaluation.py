"""Evaluation: fixed prompts and seeds, the trained reward's reader and a judge that is never trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rewards.exact_match import exact_match
from rewards.judge import build_judge
from rewards.ocr import build_tiny_recogniser
from rollout.policy import Policy, conditions_of
from rollout.process import process_of
from rollout.prompts import load_prompts
from rollout.sampler import named_noise, sample
from rollout.seeding import named_seed
from rollout.types import Prompt
from services.config import EvaluationConfig, RunConfig
from services.fleet.messages import EvaluationPart, EvaluationTask, Strip


def evaluate(policy: Policy, config: RunConfig, task: EvaluationTask) -> EvaluationPart:
    """Draw this share of the evaluation's images at each temperature and read the final ones. The same images are
    drawn whatever the number of shares, before and after training.
    """
    tiny, judge = build_tiny_recogniser(), build_judge()
    prompts, per_prompt = _plan(config)
    exact, judged = dict.fromkeys(task.temperatures, 0), dict.fromkeys(task.temperatures, 0)
    images = 0
    for index in range(task.share, len(prompts), task.shares):
        images += per_prompt
        targets = [str(prompts[index].metadata["target"])] * per_prompt
        for temperature in task.temperatures:
            pixels = draw(policy, config, prompts[index], index, per_prompt, temperature)
            exact[temperature] += int(exact_match(tiny, pixels, targets).sum())
            judged[temperature] += int(exact_match(judge, pixels, targets).sum())
    return EvaluationPart(images=images, exact=exact, judge_exact=judged)


def draw(
    policy: Policy, config: RunConfig, prompt: Prompt, index: int, count: int, temperature: float
) -> NDArray[np.uint8]:
    """The final images [count, H, W, 3] of the evaluation's `index`-th prompt."""
    clean = _sampled(policy, config, prompt, index, count, temperature)[:, -1]
    pixels: NDArray[np.uint8] = policy.decode(clean).numpy()
    return pixels


def draw_steps(
    policy: Policy, config: RunConfig, prompt: Prompt, index: int, count: int, temperature: float
) -> NDArray[np.uint8]:
    """The one-step images [count, K, H, W, 3] on the way to them."""
    clean = _sampled(policy, config, prompt, index, count, temperature)
    pixels: NDArray[np.uint8] = policy.decode(clean.flatten(0, 1)).numpy()
    return pixels.reshape(*clean.shape[:2], *pixels.shape[1:])


def _sampled(policy: Policy, config: RunConfig, prompt: Prompt, index: int, count: int, temperature: float) -> Tensor:
    """One-step samples [count, K, ...latents]."""
    behaviour = config.sampling.constant_behaviour(temperature)
    process = process_of(behaviour)
    noise = named_noise(policy, behaviour, named_seed("evaluation", 0), index, range(count))
    return sample(policy, conditions_of(policy, prompt).take([0] * count), process, noise).clean


def draw_strips(policy: Policy, config: RunConfig) -> tuple[Strip, ...]:
    """The same prompts and seeds every time, at the serving temperature, all steps."""
    evaluation = evaluation_of(config)
    reader = build_tiny_recogniser()
    prompts = load_prompts(evaluation.prompts)
    chosen = np.linspace(0, len(prompts) - 1, min(evaluation.strip_prompts, len(prompts))).astype(int)
    strips = []
    for index in chosen.tolist():
        images = draw_steps(policy, config, prompts[index], index, 1, config.sampling.serving_temperature)[0]
        strips.append(Strip(caption=prompts[index].text, images=images, notes=tuple(reader.read(images))))
    return tuple(strips)


def _plan(config: RunConfig) -> tuple[tuple[Prompt, ...], int]:
    evaluation = evaluation_of(config)
    prompts = load_prompts(evaluation.prompts)
    return prompts, -(-evaluation.images // len(prompts))


def evaluation_of(config: RunConfig) -> EvaluationConfig:
    """The run's `evaluation` block. ValueError where there is none."""
    if config.evaluation is None:
        raise ValueError("expected an `evaluation` block in the run file, found none")
    return config.evaluation
