"""The run file's parts in this process: no Ray, no Redis, no staleness but what is asked for.

For calibration and for studies of many small runs; the same rollout, reward and learner code as the fleet's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from learner.ranks import Alone
from learner.report import UpdateReport
from learner.update import Learner
from rollout.lora import MergedAdapter
from rollout.policy import Policy
from rollout.prompts import PromptOrder, load_prompts
from rollout.sampler import diversity
from rollout.trained import digest_tensors, load_tensors
from rollout.types import Behaviour, Prompt, RolloutGroup, ScoredGroup, StepImages, WeightsVersion
from services.config import RunConfig
from services.fleet.workers.build import build_learner, build_policy
from services.fleet.workers.groups import decode_images_of, draw_group, score_images
from services.fleet.workers.placed_rewards import PlacedReward
from services.fleet.workers.scored import shuffled


class LoneRun:
    """A run whose rollouts, rewards and updates take turns."""

    def __init__(self, config: RunConfig, rewards: tuple[PlacedReward, ...], *, staleness: int = 0) -> None:
        """staleness: how many updates old the weights are that every group is drawn with, once there are so many."""
        self._config = config
        self.rewards = rewards
        self._order = PromptOrder(load_prompts(config.sampling.prompts), config.seed)
        self.policy: Policy = build_policy(config)
        self._merged = MergedAdapter(self.policy.network) if config.fleet.merge_adapter else None
        self.learner: Learner = build_learner(config, build_policy(config), Alone())
        self._versions: deque[tuple[WeightsVersion, dict[str, Tensor]]] = deque(maxlen=staleness + 1)
        self._remember()

    def drawn(self) -> list[ScoredGroup]:
        """The next update's groups, drawn, decoded and scored; the same ones until it is made."""
        version, tensors = self._versions[0]
        self.use(tensors)
        done, per_update = self.learner.updates_done, self._config.learning.groups_per_update
        return [self._scored(ordinal, version) for ordinal in range(done * per_update, (done + 1) * per_update)]

    def update(self) -> UpdateReport:
        """Draw, decode, score and learn from one update's groups."""
        fresh = self._versions[0][0].update == self.learner.updates_done
        report = self.learner.update(self.drawn(), guard=fresh)
        self._remember()
        return report

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]], updates_done: int) -> None:
        """Go on from a learner's tensors (Learner.tensors): these weights draw the next groups."""
        self.learner.load(tensors, updates_done)
        self._versions.clear()
        self._remember()

    def use(self, tensors: Mapping[str, Tensor]) -> None:
        """Sample with these weights from now on."""
        with torch.no_grad():
            load_tensors(self.policy.network, tensors)
        if self._merged is not None:
            self._merged.refresh()

    def group_at(
        self,
        prompt: Prompt,
        behaviour: Behaviour,
        num_samples: int,
        ordinal: int,
        version: WeightsVersion,
        steps: Sequence[int],
    ) -> tuple[ScoredGroup, StepImages]:
        """A group with the images of `steps`, scored."""
        drawn = draw_group(self.policy, prompt, behaviour, num_samples, self._config.seed, ordinal)
        images = decode_images_of(self.policy, drawn, behaviour, steps, self._config.model.decode_batch)
        group = RolloutGroup(
            ordinal=ordinal,
            attempt=0,
            prompt=prompt,
            behaviour=behaviour,
            weights=version,
            trajectory=drawn.trajectory,
            diversity=diversity(drawn.clean),
        )
        rewards = tuple(score_images(placed, images, prompt, behaviour) for placed in self.rewards)
        return ScoredGroup(group=group, rewards=rewards), images

    def _scored(self, ordinal: int, version: WeightsVersion) -> ScoredGroup:
        behaviour = self._config.sampling.behaviour_of(ordinal, version, self._config.seed)
        samples, steps = self._config.sampling.samples_per_group, self._config.steps_scored(behaviour)
        group = self.group_at(self._order.at(ordinal), behaviour, samples, ordinal, version, steps)[0]
        if self._config.learning.advantage.shuffle_rewards:
            group = replace(group, rewards=shuffled(group.rewards, self._config.seed, ordinal))
        return group

    def _remember(self) -> None:
        tensors = {name: tensor.detach().clone() for name, tensor in self.learner.parameters.items()}
        done = self.learner.updates_done
        version = WeightsVersion(
            version=done,
            update=done,
            lineage=0,
            digest=digest_tensors(tensors),
            temperatures=self.learner.temperatures,
        )
        self._versions.append((version, tensors))
