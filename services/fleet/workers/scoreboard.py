"""What is known of a group's scores while its rewards answer one after another, in parts."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rewards.lanes import Answer
from rewards.remote_wire import Question
from rollout.types import StepImages
from services.data.queue import Claimed
from services.data.wire import GroupEntry, RewardColumn, ScoredEntry
from services.fleet.workers.groups import question_of, step_rewards
from services.fleet.workers.placed_rewards import PlacedReward
from services.observe.journeys import SCORING


class Scoreboard:
    """One claimed group: complete when every reward has scored every image that it is asked about."""

    def __init__(self, claimed: Claimed, group: GroupEntry, rewards: Sequence[PlacedReward]) -> None:
        self.claimed = claimed
        self._began = time.time()
        self.group = group
        self._rewards = {placed.name: placed for placed in rewards}
        self._scores: dict[str, NDArray[np.float32]] = {}
        self._seconds = dict.fromkeys(self._rewards, 0.0)
        self._call_seconds = 0.0

    def questions(self, images: StepImages) -> dict[str, Question]:
        """What each reward is asked."""
        prompt, behaviour = self.group.prompt.to_prompt(), self.group.behaviour.to_behaviour()
        asked = {name: question_of(placed, images, prompt, behaviour) for name, placed in self._rewards.items()}
        self._scores = {name: np.full(len(one.prompts), np.nan, np.float32) for name, one in asked.items()}
        return asked

    def fill(self, answer: Answer) -> Exception | None:
        """Take a part of the scores in; what the reward raised instead, None if it did not."""
        self._seconds[answer.reward] += answer.wall_seconds
        self._call_seconds += answer.call_seconds
        if isinstance(answer.scores, Exception):
            return answer.scores
        self._scores[answer.reward][answer.first : answer.first + len(answer.scores)] = answer.scores
        return None

    @property
    def complete(self) -> bool:
        """Whether nothing is missing: a score is finite, or it is not one."""
        return all(bool(np.isfinite(scores).all()) for scores in self._scores.values())

    def entry(self, producer: str) -> ScoredEntry:
        """The scored group. Only for a complete one."""
        samples, behaviour = len(self.group.images), self.group.behaviour.to_behaviour()
        columns = [
            step_rewards(placed, self._scores[name], samples, behaviour) for name, placed in self._rewards.items()
        ]
        ended = time.time()
        return ScoredEntry(
            group=self.group,
            rewards=tuple(RewardColumn.of(column) for column in columns),
            producer=producer,
            scored_ms=int(ended * 1000),
            timings={
                "score": self._call_seconds,
                SCORING: ended - self._began,
                **{f"score {name}": seconds for name, seconds in self._seconds.items()},
            },
        )
