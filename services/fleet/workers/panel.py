"""A look of the held-out panel: images of the average, scored by trained and held-out rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rewards.build import build, build_held_out
from rewards.picture_statistics import distance, diversity, saturation, sharpness
from rewards.reward import Reward, checked
from rollout.policy import Policy
from rollout.prompts import load_prompts
from rollout.types import Prompt
from services.config import RunConfig, WatchConfig
from services.fleet.messages import LookPart, LookTask
from services.fleet.workers.evaluation import blocks, draw, evaluation_of

IMAGES_PER_PROMPT = 4
"""Enough to see whether a prompt's images become alike."""
Pixels = NDArray[np.uint8]


class Panel:
    """The rewards and prompts of a run's looks. Loaded at the first one."""

    def __init__(self, config: RunConfig) -> None:
        watch = watch_of(config)
        self._config = config
        self._trained = {entry.title: build(entry.use, entry.options) for entry in config.rewards}
        self._held_out = {entry.title: build_held_out(entry.use, entry.options) for entry in watch.panel}
        prompts = load_prompts(evaluation_of(config).prompts)
        count = min(len(prompts), max(1, watch.images // IMAGES_PER_PROMPT))
        self._prompts = [(i, prompts[i]) for i in np.linspace(0, len(prompts) - 1, count).astype(int).tolist()]
        self._base: dict[int, Pixels] = {}

    def look(self, policy: Policy, base: Callable[[], Policy], task: LookTask) -> LookPart:
        """One share of a look. base: the model before training, asked for only once."""
        mine = self._prompts[task.share :: task.shares]
        if mine and not self._base:
            self._base = self._drawn(base(), mine)
        drawn = self._drawn(policy, mine)
        return LookPart(parts=tuple(self._score(drawn[index], index, prompt) for index, prompt in mine))

    def _drawn(self, policy: Policy, prompts: Sequence[tuple[int, Prompt]]) -> dict[int, Pixels]:
        temperature = self._config.sampling.serving_temperature
        found: dict[int, Pixels] = {}
        for block in blocks(self._config, prompts, IMAGES_PER_PROMPT):
            pixels = draw(policy, self._config, block, IMAGES_PER_PROMPT, temperature)
            found |= dict(zip(block, np.split(pixels, len(block)), strict=True))
        return found

    def _score(self, pixels: Pixels, index: int, prompt: Prompt) -> dict[str, dict[str, list[float]]]:
        def scored(rewards: dict[str, Reward]) -> dict[str, list[float]]:
            texts, metadata = [prompt.text] * len(pixels), [prompt.metadata] * len(pixels)
            return {name: checked(reward, pixels, texts, metadata).tolist() for name, reward in rewards.items()}

        statistics = {
            "diversity": [diversity(pixels)],
            "base_distance": [distance(pixels, self._base[index])],
            "saturation": [saturation(pixels)],
            "sharpness": [sharpness(pixels)],
        }
        return {"trained": scored(self._trained), "panel": scored(self._held_out), "statistics": statistics}


def watch_of(config: RunConfig) -> WatchConfig:
    """The run's `evaluation.watch`. ValueError where there is none."""
    if config.evaluation is None or config.evaluation.watch is None:
        raise ValueError("expected an `evaluation.watch` block in the run file, found none")
    return config.evaluation.watch
