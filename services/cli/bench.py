"""`tafs bench`: how far sampling, decoding, scoring and updating are above their floor.

The floor of a phase is the time of its pure network, decoder or scorer calls: for sampling and updates those that the
network was really called with, noted and made again, the KL's reference calls among them. Prompts are encoded once in a
run, so that the text encoders belong to no phase.
Both are timed in turns, repetition by repetition, so that whatever else the machine does meets both alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from learner.ranks import Alone
from rollout.branching import strides
from rollout.kernel import Transition
from rollout.lora import MergedAdapter
from rollout.policy import Policy
from rollout.process import image_strides, num_images, process_of
from rollout.prompts import PromptOrder, load_prompts
from rollout.sampler import Drawn
from rollout.types import Prompt, RolloutGroup, ScoredGroup, StepRewards, WeightsVersion
from services.cli.noted_calls import make_again, noted_calls
from services.config import RunConfig
from services.data.codec import decode_images, encode_images
from services.fleet.workers.build import build_learner, build_policy, use_threads
from services.fleet.workers.groups import decode_images_of, draw_group
from services.fleet.workers.placed_rewards import build_rewards

REPETITIONS = 7
NO_VERSION = WeightsVersion(version=0, update=0, lineage=0, digest="")


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase and its floor, to be timed in turns."""

    name: str
    unit: str
    taken: Callable[[], object]
    floor: Callable[[], object]


class Bench:
    """The run file's parts on one group, or on the groups of one update."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._behaviour = config.sampling.behaviour()
        self._process: Sequence[Transition] = process_of(self._behaviour)
        self._order = PromptOrder(load_prompts(config.sampling.prompts), config.seed)
        self._steps = list(config.steps_scored(self._behaviour))

    def phases(self) -> tuple[Phase, ...]:
        """Sample, decode and score a group; learn from an update's groups."""
        policy = build_policy(self._config)
        learner = build_learner(self._config, build_policy(self._config), Alone())
        if self._config.fleet.merge_adapter:
            MergedAdapter(policy.network).refresh()
        drawn, groups = self._draw(policy, 0), self.scored_groups(policy)
        return (
            _with_network("sample", "group", policy.network, lambda: self._draw(policy, 0)),
            Phase("decode", "group", lambda: self._decode(policy, drawn), lambda: self._decoder_calls(policy, drawn)),
            self._scoring(policy, drawn),
            _with_network("update", "update", learner.policy.network, lambda: learner.update(groups, guard=False)),
        )

    def scored_groups(self, policy: Policy) -> list[ScoredGroup]:
        """The groups of an update, with random rewards: what an update costs does not depend on what they are."""
        return [self._scored(policy, ordinal) for ordinal in range(self._config.learning.groups_per_update)]

    def draw_and_decode(self, policy: Policy) -> list[bytes]:
        """A group's images, encoded for their way to the rewards."""
        return self._decode(policy, self._draw(policy, 0))

    def _prompt(self, ordinal: int) -> Prompt:
        return self._order.at(ordinal)

    def _draw(self, policy: Policy, ordinal: int) -> Drawn:
        samples = self._config.sampling.samples_per_group
        return draw_group(policy, self._prompt(ordinal), self._behaviour, samples, self._config.seed, ordinal)

    def _decode(self, policy: Policy, drawn: Drawn) -> list[bytes]:
        batch = self._config.model.decode_batch
        return encode_images(decode_images_of(policy, drawn, self._behaviour, self._steps, batch))

    def _decoder_calls(self, policy: Policy, drawn: Drawn) -> None:
        samples, last = drawn.clean.shape[0], drawn.clean.shape[1] - 1
        shared = image_strides(self._process, strides(self._behaviour.branching, samples, self._behaviour.num_steps))
        early = [drawn.clean[:: shared[step], step] for step in self._steps if step < last]
        final = [drawn.clean[:, last]] if last in self._steps else []
        for decode, parts in ((policy.preview, early), (policy.decode, final)):
            rows = sum(len(part) for part in parts)
            for latents in torch.split(torch.cat(parts), self._config.model.decode_batch or rows) if parts else ():
                decode(latents)

    def _scoring(self, policy: Policy, drawn: Drawn) -> Phase:
        blobs, prompt = self._decode(policy, drawn), self._prompt(0)
        rewards = [entry.reward for entry in build_rewards(self._config)]
        pixels = policy.decode(drawn.clean[:, self._steps].flatten(0, 1)).numpy()
        texts, metadata = [prompt.text] * len(pixels), [prompt.metadata] * len(pixels)

        def taken() -> None:
            images = decode_images(self._steps, blobs).pixels
            for reward in rewards:
                reward(images.reshape(-1, *images.shape[2:]), texts, metadata)

        return Phase("score", "group", taken, lambda: [reward(pixels, texts, metadata) for reward in rewards])

    def _scored(self, policy: Policy, ordinal: int) -> ScoredGroup:
        drawn = self._draw(policy, ordinal)
        shape = (len(drawn.clean), num_images(self._process))
        numbers, scored = np.random.default_rng(ordinal), np.ones(shape[1], dtype=bool)
        rewards = tuple(
            StepRewards(
                name=reward.title, range=(0.0, 1.0), values=numbers.random(shape, dtype=np.float32), scored=scored
            )
            for reward in self._config.rewards
        )
        group = RolloutGroup(
            ordinal=ordinal,
            attempt=0,
            prompt=self._prompt(ordinal),
            behaviour=self._behaviour,
            weights=NO_VERSION,
            trajectory=drawn.trajectory,
        )
        return ScoredGroup(group=group, rewards=rewards)


def _with_network(name: str, unit: str, network: nn.Module, taken: Callable[[], object]) -> Phase:
    """A phase whose floor are the network calls that it makes."""
    calls = noted_calls(network, taken)
    return Phase(name, unit, taken, lambda: make_again(network, calls))


def bench_run(config: RunConfig) -> None:
    """Print floor, time taken and ratio of every phase: medians over repetitions, ratios of neighbours in time."""
    use_threads(config.fleet.rollout.cpus)
    title = f"{config.name}, {torch.get_num_threads()} thread(s), {REPETITIONS} repetitions"
    table = Table("phase", "floor ms", "taken ms", "taken / floor", "per", title=title)
    for phase in Bench(config).phases():
        floor, taken, ratio = in_turns(phase)
        table.add_row(phase.name, f"{floor * 1e3:.1f}", f"{taken * 1e3:.1f}", f"{ratio:.3f}", phase.unit)
    Console().print(table)


def in_turns(phase: Phase) -> tuple[float, float, float]:
    """Median seconds of the floor and of what is taken, and the median of their ratios."""
    phase.taken()
    phase.floor()
    pairs = [(_seconds(phase.floor), _seconds(phase.taken)) for _ in range(REPETITIONS)]
    floors, takens = zip(*pairs, strict=True)
    ratio = statistics.median(taken / floor for floor, taken in pairs)
    return statistics.median(floors), statistics.median(takens), ratio


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # calls return before the GPU is done
    return time.perf_counter() - started
