"""Feeds one reward from many requests: one call at a time, in one thread, small requests together.

A batch is what waits at the moment: nothing is held back to fill one. Only images of one size go together. If a batch
of several requests fails, each is asked alone, so that nobody's question spoils another's answer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewards.lanes import joined
from rewards.remote_wire import Question
from rewards.reward import Reward, check_metadata, checked
from services.observe.serving_metrics import ServingMetrics

Scores = NDArray[np.float32]

FORGETTING = 0.1
"""Weight of the newest call in the running mean of seconds per image."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    question: Question
    answer: asyncio.Future[Scores]


class Batcher:
    """A reward with a line of questions before it. Belongs to the event loop that `run` runs on."""

    def __init__(self, reward: Reward, batch_images: int, metrics: ServingMetrics) -> None:
        """At most `batch_images` images go together."""
        self._reward = reward
        self._batch_images = batch_images
        self._metrics = metrics
        self._line: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._images_ahead = 0  # waiting or being scored
        self._seconds_per_image = 0.0

    async def score(self, question: Question) -> Scores:
        """The scores of a question, in its turn. Raises ValueError for metadata that lack a key; what the reward
        raises passes through.
        """
        check_metadata(self._reward, question.metadata)
        waiting = _Waiting(question, asyncio.get_running_loop().create_future())
        self._line.append(waiting)
        self._images_ahead += len(question.prompts)
        self._arrived.set()
        return await waiting.answer

    def seconds_ahead(self) -> int:
        """About how long a new question would wait, in whole seconds, at least 1."""
        return max(1, math.ceil(self._images_ahead * self._seconds_per_image))

    async def run(self) -> None:
        """Score until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward") as thread:
            while True:
                await self._arrived.wait()
                batch = self._next_batch()
                await self._answer(batch, loop, thread)
                self._images_ahead -= sum(len(entry.question.prompts) for entry in batch)
                if not self._line:
                    self._arrived.clear()

    def _next_batch(self) -> list[_Waiting]:
        batch = [self._line.popleft()]
        images = len(batch[0].question.prompts)
        size = batch[0].question.images.shape[1:]
        while self._line:
            following = self._line[0].question
            images += len(following.prompts)
            if images > self._batch_images or following.images.shape[1:] != size:
                break
            batch.append(self._line.popleft())
        return batch

    async def _answer(self, batch: list[_Waiting], loop: asyncio.AbstractEventLoop, thread: ThreadPoolExecutor) -> None:
        wanted = [entry for entry in batch if not entry.answer.done()]  # a client that has gone asks for nothing
        together = joined([entry.question for entry in wanted]) if wanted else None
        if together is not None:
            try:
                scores = await loop.run_in_executor(thread, self._scored, together)
            except Exception as error:  # the reward's edge: whatever it raises is this batch's answer, not our end
                if len(wanted) > 1:
                    for entry in wanted:
                        await self._answer([entry], loop, thread)
                    return
                _settle(wanted[0], error)
            else:
                for entry, part in zip(wanted, _split(scores, wanted), strict=True):
                    _settle(entry, part)

    def _scored(self, question: Question) -> Scores:
        started = time.perf_counter()
        scores = checked(self._reward, question.images, question.prompts, question.metadata)
        seconds = time.perf_counter() - started
        self._metrics.scored(len(scores), seconds)
        each = seconds / len(scores)
        old = self._seconds_per_image
        self._seconds_per_image = each if old == 0.0 else old + FORGETTING * (each - old)
        return scores


def _split(scores: Scores, batch: Sequence[_Waiting]) -> list[Scores]:
    ends = np.cumsum([len(entry.question.prompts) for entry in batch])
    return np.split(scores, ends[:-1])


def _settle(entry: _Waiting, outcome: Scores | Exception) -> None:
    if entry.answer.done():
        return
    if isinstance(outcome, Exception):
        entry.answer.set_exception(outcome)
    else:
        entry.answer.set_result(outcome)
