"""All workers of a run, as the controller sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollout.types import WeightsVersion
from services.config import RoleConfig, RunConfig
from services.fleet.actors import Reservation, Worker, finished, results
from services.fleet.messages import (
    EvaluationPart,
    EvaluationTask,
    Link,
    LookPart,
    LookTask,
    Progress,
    RankPlace,
    Restored,
    Strip,
    UpdateOrder,
    UpdateResult,
)
from services.fleet.placement import bundles_of, needs_of

START_TIMEOUT_S = 300.0
"""Building a worker: imports of torch and diffusers, the model, the scorers."""
ROOM_TIMEOUT_S = 60.0
"""For room that is known to be there; another run may hold it a moment longer."""
STOP_TIMEOUT_S = 60.0
"""Finishing the group in hand after the stop sign."""


class Fleet:
    """Starts the workers, speaks to them, ends them."""

    def __init__(self, config: RunConfig, redis_url: str) -> None:
        self._config = config
        self._redis_url = redis_url
        fleet = config.fleet
        self._reservation = Reservation(bundles_of(fleet), fleet.room_timeout_s or ROOM_TIMEOUT_S)
        self._learners = self._places("learner", fleet.learner)
        self._rollouts = self._places("rollout", fleet.rollout)
        self._rewards = self._places("reward", fleet.reward)
        self._loops: list[Any] = []
        self._timeout_s = fleet.stall_timeout_s

    def _places(self, role: str, spec: RoleConfig) -> list[Worker]:
        needs = needs_of(spec)
        return [Worker(f"{role}-{index}", needs, self._reservation) for index in range(spec.workers)]

    def start(self) -> None:
        """Build every worker, all at once."""
        size = len(self._learners)
        address = "" if size == 1 else f"tcp://{self._ask([self._learners[0].free_address()], 'first rank')[0]}"
        building = [
            worker.start("learner", self._config, self._link(worker), RankPlace(rank=r, size=size, init_method=address))
            for r, worker in enumerate(self._learners)
        ]
        building += [w.start("rollout", self._config, self._link(w)) for w in self._rollouts]
        building += [w.start("reward", self._config, self._link(w)) for w in self._rewards]
        results(building, START_TIMEOUT_S, "starting the workers")

    def _link(self, worker: Worker) -> Link:
        return Link(redis_url=self._redis_url, run=self._config.name, slot=worker.slot)

    def _ask(self, references: Sequence[Any], what: str) -> list[Any]:
        return results(references, self._timeout_s, what)

    def restore(self, folder: Path) -> Restored:
        """Every rank goes on from the newest sound checkpoint."""
        found: Restored = self._ask([w.call("restore", folder) for w in self._learners], "restoring the learner")[0]
        return found

    def publish(self, version: int, lineage: int, epoch: int, *, average: bool) -> WeightsVersion:
        """Publish the learner's live weights, or their average, under a new version."""
        method = "publish_average" if average else "publish"
        answers = self._ask([w.call(method, version, lineage, epoch) for w in self._learners], "publishing weights")
        named: WeightsVersion = answers[0]
        return named

    def run_loops(self) -> None:
        """Let rollout and reward workers work until the stop sign."""
        self._loops = [worker.call("run") for worker in (*self._rollouts, *self._rewards)]

    def check_loops(self) -> None:
        """Raise what ended a worker that should still be working."""
        ended = finished(self._loops)
        if ended:
            results(ended, self._timeout_s, "a rollout or reward worker")

    def join_loops(self) -> None:
        """Wait until the workers saw the stop sign and finished what they had in hand."""
        loops, self._loops = self._loops, []
        results(loops, STOP_TIMEOUT_S, "stopping rollout and reward workers")

    def update(self, order: UpdateOrder) -> UpdateResult:
        """One update on all ranks."""
        answers = self._ask([worker.call("update", order) for worker in self._learners], "an update")
        result: UpdateResult = answers[0]
        return result

    def save(self, folder: Path, progress: Progress, config_digest: str) -> None:
        """Write a checkpoint."""
        self._ask([w.call("save", folder, progress, config_digest) for w in self._learners[:1]], "a checkpoint")

    def save_trained(self, folder: Path) -> None:
        """Write the averaged adapter or network as stock diffusers loads it."""
        self._ask([self._learners[0].call("save_trained", folder)], "saving the adapter")

    def strips(self) -> tuple[Strip, ...]:
        """The image strips of the averaged weights."""
        strips: tuple[Strip, ...] = self._ask([self._learners[0].call("strips")], "image strips")[0]
        return strips

    def look(self) -> list[LookPart]:
        """A look of the held-out panel at the averaged weights, by all learner ranks together."""
        shares = len(self._learners)
        tasks = [LookTask(share=share, shares=shares) for share in range(shares)]
        calls = [worker.call("look", task) for worker, task in zip(self._learners, tasks, strict=True)]
        parts: list[LookPart] = self._ask(calls, "a look of the held-out panel")
        return parts

    def evaluate(self, version: WeightsVersion | None, temperatures: tuple[float, ...]) -> EvaluationPart:
        """Evaluate on learners and rollout workers together: the averaged weights, published as `version`, or with
        None those before training.
        """
        workers = [*self._learners, *self._rollouts]
        tasks = [
            EvaluationTask(version=version, temperatures=temperatures, share=share, shares=len(workers))
            for share in range(len(workers))
        ]
        calls = [worker.call("evaluate", task) for worker, task in zip(workers, tasks, strict=True)]
        parts: list[EvaluationPart] = self._ask(calls, "an evaluation")
        return EvaluationPart(
            images=sum(part.images for part in parts),
            exact={t: sum(part.exact[t] for part in parts) for t in temperatures},
            judge_exact={t: sum(part.judge_exact[t] for part in parts) for t in temperatures},
        )
