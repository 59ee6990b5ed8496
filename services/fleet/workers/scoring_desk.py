"""Holds several groups at once before a worker's rewards, and hands each on when it is settled.

      take --> [lanes: every reward in a thread of its own] --> scoreboards --> settled(board, error)
    caller's thread                                              this desk's thread

A group is settled when all its scores are there, or when one of its rewards failed; what its other rewards still had
to do is then dropped. In which order groups are settled depends on their rewards, what they are given does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from rewards.lanes import CLOSE_S, Answer, Lanes
from rewards.tally import Tally
from rollout.types import StepImages
from services.fleet.workers.placed_rewards import PlacedReward
from services.fleet.workers.scoreboard import Scoreboard

Settled = Callable[[Scoreboard, Exception | None], None]
"""Told in the desk's thread of a complete group, or of one that failed and why."""


class ScoringDesk:
    """The rewards of one worker, with at most `groups_at_once` groups before them."""

    def __init__(self, rewards: Sequence[PlacedReward], groups_at_once: int, settled: Settled) -> None:
        self._lanes = Lanes({placed.name: (placed.reward, placed.batch_images) for placed in rewards})
        self._groups_at_once = groups_at_once
        self._settled = settled
        self._boards: dict[int, Scoreboard] = {}
        self._taken = 0  # the next board's key
        self._changed = threading.Condition()
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="scoring desk", daemon=True)
        self._thread.start()

    def take(self, board: Scoreboard, images: StepImages) -> None:
        """Have a group scored; returns when there is room for another. Raises what `settled` raised, now or before."""
        questions = board.questions(images)
        with self._changed:
            key, self._taken = self._taken, self._taken + 1
            self._boards[key] = board
        self._lanes.put(key, questions)
        self._wait(lambda: len(self._boards) < self._groups_at_once)

    def tallies(self) -> dict[str, Tally]:
        """How every reward's calls went so far, by name."""
        return self._lanes.tallies()

    def finish(self) -> None:
        """Wait until every group that was taken is settled. Raises what `settled` raised."""
        self._wait(lambda: not self._boards)

    def close(self) -> None:
        """Drop what is not settled; calls under way are waited for, CLOSE_S at most."""
        self._lanes.close()
        self._thread.join(CLOSE_S)

    def _wait(self, until: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._broken is not None or until())
        if self._broken is not None:
            raise self._broken

    def _run(self) -> None:
        try:
            for answer in self._lanes.answers():
                self._receive(answer)
        except BaseException as error:
            with self._changed:
                self._broken = error
                self._changed.notify_all()

    def _receive(self, answer: Answer) -> None:
        board = self._boards.get(answer.key)
        if board is None:  # its group has failed already
            return
        error = board.fill(answer)
        if error is None and not board.complete:
            return
        self._lanes.forget(answer.key)
        self._settled(board, error)
        with self._changed:
            del self._boards[answer.key]
            self._changed.notify_all()
