"""`tafs bench`: how far sampling, decoding, scoring and updating are above their floor.

The floor of a phase is the time of its pure network, decoder or scorer calls on the same shapes. Prompts are encoded
once in a run, so that the text encoders belong to no phase.
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

from learner.ranks import Alone
from learner.update import Learner
from rollout.kernel import Transition
from rollout.lora import MergedAdapter
from rollout.policy import Conditions, Policy, conditions_of
from rollout.process import num_images, process_of
from rollout.prompts import PromptOrder, load_prompts
from rollout.sampler import Drawn, named_noise, sample
from rollout.types import Prompt, RolloutGroup, ScoredGroup, StepRewards, WeightsVersion
from services.config import RunConfig
from services.data.codec import decode_images, encode_images
from services.fleet.build import build_learner, build_policy, build_rewards, use_threads
from services.fleet.groups import decode_images_of

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
        drawn, conditions = self._draw(policy, 0)
        groups = self.scored_groups(policy)
        return (
            Phase("sample", "group", lambda: self._draw(policy, 0), lambda: self._calls(policy, drawn, conditions)),
            Phase("decode", "group", lambda: self._decode(policy, drawn), lambda: self._decoder_calls(policy, drawn)),
            self._scoring(policy, drawn),
            Phase("update", "update", lambda: learner.update(groups, guard=False), lambda: _pure(learner, groups)),
        )

    def scored_groups(self, policy: Policy) -> list[ScoredGroup]:
        """The groups of an update, with random rewards: what an update costs does not depend on what they are."""
        return [self._scored(policy, ordinal) for ordinal in range(self._config.learning.groups_per_update)]

    def draw_and_decode(self, policy: Policy) -> list[bytes]:
        """A group's images, encoded for their way to the rewards."""
        return self._decode(policy, self._draw(policy, 0)[0])

    def _prompt(self, ordinal: int) -> Prompt:
        return self._order.at(ordinal)

    def _draw(self, policy: Policy, ordinal: int) -> tuple[Drawn, Conditions]:
        samples = range(self._config.sampling.samples_per_group)
        conditions = conditions_of(policy, self._prompt(ordinal)).take([0] * len(samples))
        noise = named_noise(policy, self._behaviour, self._config.seed, ordinal, samples)
        return sample(policy, conditions, self._process, noise, self._behaviour.branching), conditions

    @torch.no_grad()
    def _calls(self, policy: Policy, drawn: Drawn, conditions: Conditions) -> None:
        x = drawn.trajectory.states[:, 0]
        for transition in self._process:
            policy.velocity(x, torch.full((len(x),), transition.sigma, device=x.device), conditions)

    def _flat(self, drawn: Drawn) -> torch.Tensor:
        return drawn.clean[:, self._steps].flatten(0, 1)

    def _decode(self, policy: Policy, drawn: Drawn) -> list[bytes]:
        batch = self._config.model.decode_batch
        return encode_images(decode_images_of(policy, drawn, self._behaviour, self._steps, batch))

    def _decoder_calls(self, policy: Policy, drawn: Drawn) -> None:
        flat = self._flat(drawn)
        for latents in torch.split(flat, self._config.model.decode_batch or len(flat)):
            policy.decode(latents)

    def _scoring(self, policy: Policy, drawn: Drawn) -> Phase:
        blobs, prompt = self._decode(policy, drawn), self._prompt(0)
        rewards = [entry.reward for entry in build_rewards(self._config)]
        pixels = policy.decode(self._flat(drawn)).numpy()
        texts, metadata = [prompt.text] * len(pixels), [prompt.metadata] * len(pixels)

        def taken() -> None:
            images = decode_images(self._steps, blobs).pixels
            for reward in rewards:
                reward(images.reshape(-1, *images.shape[2:]), texts, metadata)

        return Phase("score", "group", taken, lambda: [reward(pixels, texts, metadata) for reward in rewards])

    def _scored(self, policy: Policy, ordinal: int) -> ScoredGroup:
        drawn, _ = self._draw(policy, ordinal)
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


def _pure(learner: Learner, groups: Sequence[ScoredGroup]) -> None:
    """Forward and backward of the update's network calls, and nothing else."""
    size = learner.spec.micro_batch
    states = torch.cat([group.group.trajectory.states.flatten(0, 1) for group in groups])
    conditions = conditions_of(learner.policy, groups[0].group.prompt).take([0] * size)
    for x in torch.split(states, size):
        sigma = torch.full((len(x),), 0.5, device=x.device)
        learner.policy.velocity(x, sigma, conditions.take(range(len(x)))).sum().backward()  # type: ignore[no-untyped-call]
    learner.optimizer.zero_grad()


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
