"""Evaluation: fixed prompts and seeds, the trained reward's reader and a judge that is never trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rewards.exact_match import exact_match
from rewards.judge import build_judge
from rewards.ocr import build_tiny_recogniser
from rollout.decoding import decode_all
from rollout.policy import Conditions, Policy, conditions_of
from rollout.process import process_of
from rollout.prompts import load_prompts
from rollout.sampler import named_noise, sample, together
from rollout.seeding import named_seed
from rollout.types import Prompt
from services.config import EvaluationConfig, RunConfig
from services.fleet.messages import EvaluationPart, EvaluationTask, Strip


def evaluate(policy: Policy, config: RunConfig, task: EvaluationTask) -> EvaluationPart:
    """Draw this share of the evaluation's images at each temperature and read the final ones. The same images are
    drawn whatever the number of shares, up to the rounding of batches, before and after training.
    """
    tiny, judge = build_tiny_recogniser(), build_judge()
    prompts, per_prompt = _plan(config)
    exact, judged = dict.fromkeys(task.temperatures, 0), dict.fromkeys(task.temperatures, 0)
    images = 0
    for block in blocks(config, list(enumerate(prompts))[task.share :: task.shares], per_prompt):
        targets = [str(prompt.metadata["target"]) for prompt in block.values() for _ in range(per_prompt)]
        images += len(targets)
        for temperature in task.temperatures:
            pixels = draw(policy, config, block, per_prompt, temperature)
            exact[temperature] += int(exact_match(tiny, pixels, targets).sum())
            judged[temperature] += int(exact_match(judge, pixels, targets).sum())
    return EvaluationPart(images=images, exact=exact, judge_exact=judged)


def blocks(config: RunConfig, prompts: Sequence[tuple[int, Prompt]], count: int) -> Iterator[dict[int, Prompt]]:
    """Prompts by place, as many together as make no larger a batch than a group is, with `count` images each."""
    at_once = max(1, config.sampling.samples_per_group // count)
    for first in range(0, len(prompts), at_once):
        yield dict(prompts[first : first + at_once])


def draw(
    policy: Policy, config: RunConfig, prompts: Mapping[int, Prompt], count: int, temperature: float
) -> NDArray[np.uint8]:
    """The final images [len(prompts) * count, H, W, 3] of some of the evaluation's prompts, by their places: of each
    `count`, in one batch as far as neighbours' conditions have the same shapes.
    """
    named = [(index, conditions_of(policy, prompt)) for index, prompt in prompts.items()]
    parts = [_sampled(policy, config, part, count, temperature) for _, part in groupby(named, lambda n: n[1].shapes)]
    clean = torch.cat(parts)[:, -1:]
    pixels: NDArray[np.uint8] = decode_all(policy.decode, clean, config.model.decode_batch)[:, 0].numpy()
    return pixels


def draw_steps(
    policy: Policy, config: RunConfig, prompt: Prompt, index: int, count: int, temperature: float
) -> NDArray[np.uint8]:
    """The one-step images [count, K, H, W, 3] on the way to them."""
    clean = _sampled(policy, config, [(index, conditions_of(policy, prompt))], count, temperature)
    pixels: NDArray[np.uint8] = policy.decode(clean.flatten(0, 1)).numpy()
    return pixels.reshape(*clean.shape[:2], *pixels.shape[1:])


def _sampled(
    policy: Policy, config: RunConfig, prompts: Iterable[tuple[int, Conditions]], count: int, temperature: float
) -> Tensor:
    """One-step samples [len(prompts) * count, K, ...latents] of prompts by place and row of conditions."""
    behaviour = config.sampling.constant_behaviour(temperature)
    indices, rows = zip(*prompts, strict=True)
    seed = named_seed("evaluation", 0)
    noise = together([named_noise(policy, behaviour, seed, index, range(count)) for index in indices])
    conditions = Conditions.concatenate(rows).take([row for row in range(len(rows)) for _ in range(count)])
    return sample(policy, conditions, process_of(behaviour), noise).clean


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
