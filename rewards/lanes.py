"""Several rewards side by side: one lane, which is one thread with a line before it, for each.

    questions --> [lane "ocr"]   --+
              --> [lane "clip"]  --+--> answers, in parts, as they come
              --> [lane "judge"] --+

A lane asks its reward about what waits for it, pictures of several questions together, up to `batch_images` a call; a
question of more goes in parts, and each part is answered at once. A slow lane holds nobody back: the others go on with
the next questions. If a call about several questions fails, each is asked alone, so that none spoils another's answer.
A reward is only ever called in its lane's thread.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from rewards.http_call import CallStatistics
from rewards.remote_wire import Question
from rewards.reward import Reward, checked
from rewards.tally import Tally

CLOSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a lane says about a part of a question: scores, or why there are none."""

    key: int  # of the question
    reward: str  # the lane's name
    first: int  # place in the question of the first image it is about
    scores: NDArray[np.float32] | Exception
    call_seconds: float  # CPU time of the lane's thread
    wall_seconds: float


@dataclass(frozen=True, slots=True)
class _Part:
    key: int
    first: int
    question: Question


class Lane:
    """One reward with its thread."""

    def __init__(self, name: str, reward: Reward, batch_images: int, answers: "SimpleQueue[Answer | None]") -> None:
        """`answers` is where answers go. A reward that compares images is always asked about one whole question."""
        self._name = name
        self._reward = reward
        self._batch_images = batch_images
        self._answers = answers
        self._line: deque[_Part] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._tally = Tally()  # replaced whole, by the lane's thread alone
        self._server = statistics_of(reward)
        self._thread = threading.Thread(target=self._run, name=f"reward {name}", daemon=True)
        self._thread.start()

    def put(self, key: int, question: Question) -> None:
        """Stand in the line."""
        size = len(question.prompts) if self._reward.compares else self._batch_images
        with self._changed:
            self._line.extend(
                _Part(key, first, part_of(question, first, size)) for first in range(0, len(question.prompts), size)
            )
            self._changed.notify()

    def forget(self, key: int) -> None:
        """What of this question has not been asked yet never is."""
        with self._changed:
            self._line = deque(part for part in self._line if part.key != key)

    @property
    def tally(self) -> Tally:
        """How the calls went so far."""
        if self._server is None:
            return self._tally
        server = self._server()
        return replace(self._tally, retries=server.retries, breakers_open=int(server.breaker_open))

    def close(self) -> None:
        """Ask nothing more; a call that is under way is waited for, CLOSE_S at most."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while parts := self._next():
            self._ask(parts)

    def _next(self) -> list[_Part]:
        """The parts of the next call; none after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._line))
            if self._closed:
                return []
            parts = [self._line.popleft()]
            images = len(parts[0].question.prompts)
            while self._line and not self._reward.compares:
                following = self._line[0].question
                images += len(following.prompts)
                if images > self._batch_images or following.images.shape[1:] != parts[0].question.images.shape[1:]:
                    break
                parts.append(self._line.popleft())
            return parts

    def _ask(self, parts: Sequence[_Part]) -> None:
        question = joined([part.question for part in parts])
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            scores = checked(self._reward, question.images, question.prompts, question.metadata)
        except Exception as error:  # the reward's edge: whatever it raises is an answer, not the lane's end
            self._tally += Tally(calls=1, failures=1, seconds=time.perf_counter() - wall)
            if len(parts) > 1:
                for part in parts:
                    self._ask([part])
            else:
                self._give(parts[0], error, time.thread_time() - cpu, time.perf_counter() - wall)
            return
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        self._tally += Tally(calls=1, images=len(scores), seconds=wall)
        first = 0
        for part in parts:
            count = len(part.question.prompts)
            share = count / len(scores)
            self._give(part, scores[first : first + count], cpu * share, wall * share)
            first += count

    def _give(self, part: _Part, scores: NDArray[np.float32] | Exception, cpu: float, wall: float) -> None:
        self._answers.put(Answer(part.key, self._name, part.first, scores, cpu, wall))


class Lanes:
    """All rewards of a worker."""

    def __init__(self, rewards: Mapping[str, tuple[Reward, int]]) -> None:
        """By name: the reward, and the images that it is asked about in one call."""
        self._answers: SimpleQueue[Answer | None] = SimpleQueue()
        self._lanes = {name: Lane(name, reward, size, self._answers) for name, (reward, size) in rewards.items()}

    def put(self, key: int, questions: Mapping[str, Question]) -> None:
        """Ask each reward its question; `key` comes back with every answer."""
        for name, question in questions.items():
            self._lanes[name].put(key, question)

    def forget(self, key: int) -> None:
        """Ask nothing more of this key; answers of calls under way may still come."""
        for lane in self._lanes.values():
            lane.forget(key)

    def answers(self) -> Iterator[Answer]:
        """Every answer as it comes; ends behind `close`."""
        while (answer := self._answers.get()) is not None:
            yield answer

    def tallies(self) -> dict[str, Tally]:
        """How every reward's calls went so far, by name."""
        return {name: lane.tally for name, lane in self._lanes.items()}

    def close(self) -> None:
        """Ask nothing more; calls under way are waited for."""
        for lane in self._lanes.values():
            lane.close()
        self._answers.put(None)


def statistics_of(reward: Reward) -> Callable[[], CallStatistics] | None:
    """How to ask a reward how the calls of its server, or of its judge's, went; None for one without either."""
    caller = getattr(reward, "judge", reward)
    found: Callable[[], CallStatistics] | None = getattr(caller, "statistics", None)
    return found


def part_of(question: Question, first: int, size: int) -> Question:
    """The question about `size` of its images, from `first` on."""
    chosen = slice(first, first + size)
    return Question(
        images=question.images[chosen], prompts=question.prompts[chosen], metadata=question.metadata[chosen]
    )


def joined(questions: Sequence[Question]) -> Question:
    """One question about all their images, which are of one size."""
    if len(questions) == 1:
        return questions[0]
    return Question(
        images=np.concatenate([question.images for question in questions]),
        prompts=[prompt for question in questions for prompt in question.prompts],
        metadata=[entry for question in questions for entry in question.metadata],
    )
