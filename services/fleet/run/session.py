"""The open parts of a run, and what is done with them between its updates: checkpoints, looks, strips."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from services.config import RunConfig
from services.errors import LearnerLost
from services.fleet.messages import Progress
from services.fleet.planning.run_folder import config_digest
from services.fleet.run.recorder import Recorder
from services.fleet.run.watch import BEST_FOLDER, Watch
from services.fleet.supervision.fleet import Fleet
from services.observe.hacking import sentence

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Session:
    """The open parts of a run."""

    config: RunConfig
    folder: Path
    fleet: Fleet
    recorder: Recorder
    console: Console
    checkpoints: Path | str  # what a learner that is replaced goes on from
    watch: Watch | None

    def with_learner(self, action: Callable[[], T]) -> T:
        """The action's result. It is done again where the learner dies in it and comes back from its checkpoint."""
        while True:
            try:
                return action()
            except LearnerLost as lost:
                self.console.print(f"the learner is lost: {lost}", markup=False, highlight=False, soft_wrap=True)
                self.fleet.replace_learner(self.checkpoints)

    @property
    def halted(self) -> bool:
        """Whether the panel asks the run to end."""
        return self.watch is not None and self.watch.halts

    def watched(self, progress: Progress) -> dict[str, Any]:
        """What the held-out panel says at the end, for the summary; nothing without one."""
        verdict = None if self.watch is None else self.watch.verdict
        return {} if verdict is None else {"watch": {**asdict(verdict), "kept_update": progress.update}}

    def first_looks(self, progress: Progress) -> None:
        """The strip of the very first weights; the panel's look at those that this start begins with."""
        if self.config.evaluation is not None and progress.update == 0:
            self.recorder.show_strips(self.fleet.strips(), 0)
        self.look(progress)

    def after_update(self, progress: Progress) -> None:
        """Checkpoints, looks of the panel and strips when they are due."""
        learning, evaluation = self.config.learning, self.config.evaluation
        if progress.update % learning.checkpoint_every == 0 or progress.update == learning.updates:
            self.save(progress)
        self.look(progress)
        if evaluation is not None and progress.update % evaluation.strips_every == 0:
            self.recorder.show_strips(self.fleet.strips(), progress.update)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint."""
        started = time.monotonic()
        self.fleet.save(self.checkpoints, progress, config_digest(self.config))
        self.recorder.checkpointed(time.monotonic() - started)

    def save_last(self, progress: Progress) -> None:
        """The checkpoint of a run that leaves, unless there is one; where the learner dies of it, the one before stays
        the last.
        """
        learning = self.config.learning
        if progress.update % learning.checkpoint_every == 0 or progress.update == learning.updates:
            return
        try:
            self.save(progress)
        except LearnerLost as lost:
            self.console.print(f"no checkpoint of update {progress.update}: {lost}", markup=False)
            self.fleet.replace_learner(self.checkpoints)

    def look(self, progress: Progress) -> None:
        """Let the panel look when it is due; keep the weights of its best look, and tell of what falls."""
        watch = self.watch
        if watch is None or not watch.due(progress.update):
            return
        look = watch.look(self.fleet, progress.update)
        verdict = watch.verdict
        assert verdict is not None
        self.recorder.looked(look, verdict)
        if verdict.best_update == progress.update:
            self.fleet.save(self.folder / BEST_FOLDER, progress, config_digest(self.config))
        for fall in verdict.falls:
            if fall.reward in verdict.hacked:
                self.console.print(f"reward hacking: {sentence(fall)}", highlight=False)
                self.recorder.tell("hacking", sentence(fall))

    def rolled_back(self, update: int) -> None:
        """The run went back to this update."""
        if self.watch is not None:
            self.watch.back_to(update)
