"""All workers of a run, as the controller sees them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from redis import Redis

from rollout.types import WeightsVersion
from services.config import RoleConfig, RunConfig
from services.errors import LearnerLost, ServerUnavailable, StalledError, WeightsError, WorkerFailed
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
from services.fleet.planning.placement import bundles_of, needs_of
from services.fleet.supervision.actors import Reservation, Worker, failure, finished, results
from services.fleet.supervision.heartbeat import Hearts
from services.fleet.supervision.lifecycle import State
from services.fleet.supervision.member import Member, Role
from services.fleet.supervision.supervisor import Supervisor
from services.observe.workers import WorkerFigures
from services.redis_config import RedisUsersConfig

ROOM_TIMEOUT_S = 60.0
"""For room that is known to be there; another run may hold it a moment longer."""
POLL_S = 0.1
"""Between two looks at the workers while the driver waits for one of them."""
SHARE_LOST = (WorkerFailed, WeightsError, ServerUnavailable)
"""Of an evaluation: what a rollout worker may end it with, and the first rank, which needs no server, does it again."""
DEATH_S = 5.0
"""How long an error of the learner waits for the news that a rank died: gloo's complaint comes before Ray's."""


class Fleet:
    """Starts the workers, speaks to them, ends them. Every wait looks after the workers meanwhile.

    A call that needs the learner raises LearnerLost where a rank died or did not answer for `fleet.stall_timeout_s`;
    `replace_learner` brings it back from its newest checkpoint.
    """

    def __init__(
        self,
        config: RunConfig,
        redis: Redis,
        redis_url: str,
        *,
        release: Callable[[str], object],
        note: Callable[[str], None],
        show: Callable[[Sequence[WorkerFigures]], None],
        keep_server: Callable[[], None],
    ) -> None:
        """release: gives back what a dead worker of that slot had claimed. note: tells the operator. show: tells the
        observers. keep_server: starts the run's own server again where it has died.
        """
        self.keep_server = keep_server
        self.on_tick: Callable[[], None] = lambda: None
        self._config = without_servers(config)
        self._redis_urls = {role: config.fleet.redis_users.url_of(role, redis_url) for role in get_args(Role)}
        fleet = config.fleet
        self._reservation = Reservation(bundles_of(fleet), fleet.room_timeout_s or ROOM_TIMEOUT_S)
        self._note = note
        self._meeting = ""
        self._timeout_s = config.fleet.stall_timeout_s
        self.supervisor = Supervisor(
            config.fleet,
            Hearts(redis, config.name),
            place=self._place,
            build=self._build,
            release=release,
            folder=config.folder,
            note=note,
            show=show,
        )

    def start(self) -> None:
        """Build every worker, all at once. An error that a worker raised while it was built comes through."""
        self.supervisor.start()
        up = {State.HEALTHY, State.SUSPECT, State.FAILED}
        while not self._states() <= up:
            try:
                self._follow(lambda: self._states() <= up, "starting the workers")
            except LearnerLost:
                self._follow(self.supervisor.respawn_learner, "the learner's pause")

    def _place(self, slot: str, spec: RoleConfig) -> Worker:
        return Worker(slot, needs_of(spec), self._reservation)

    def _build(self, member: Member) -> Any:  # noqa: ANN401 - an ObjectRef
        if member.role != "learner":
            return member.alive.start(member.role, self._config, self._link(member))
        ranks = self.supervisor.members("learner")
        rank = ranks.index(member)
        if rank == 0 and len(ranks) > 1:  # a new one each time: the old port may still be taken
            self._meeting = f"tcp://{results([member.alive.free_address()], self._timeout_s, 'the first rank')[0]}"
        place = RankPlace(rank=rank, size=len(ranks), init_method=self._meeting)
        return member.alive.start("learner", self._config, self._link(member), place)

    def _link(self, member: Member) -> Link:
        return Link(
            redis_url=self._redis_urls[member.role],
            run=self._config.name,
            slot=member.slot,
            incarnation=member.life.incarnation,
        )

    def tick(self) -> None:
        """Look after server and workers. Raises LearnerLost, or what ends the run."""
        self.keep_server()
        self.on_tick()
        self.supervisor.tick()

    def dump_stacks(self, why: str) -> Path:
        """Every worker's stacks, into the run folder; the file."""
        return self.supervisor.dump_stacks(why)

    def restore(self, folder: Path | str) -> Restored:
        """Every rank goes on from the newest sound checkpoint."""
        found: Restored = self._ask_learner("restore", folder, what="restoring the learner")
        return found

    def replace_learner(self, folder: Path | str) -> Restored:
        """After LearnerLost: start every rank anew, as often as the budget allows; what its newest checkpoint holds.
        Rollout and reward workers go on meanwhile. WorkerFailed when the budget is spent.
        """
        while True:
            try:
                self._follow(self.supervisor.respawn_learner, "the learner's pause")
                self._follow(lambda: self._states("learner") == {State.HEALTHY}, "the learner's restart")
                return self.restore(folder)
            except LearnerLost:
                continue

    def publish(self, version: int, lineage: int, epoch: int, *, average: bool) -> WeightsVersion:
        """Publish the learner's live weights, or their average, under a new version."""
        method = "publish_average" if average else "publish"
        named: WeightsVersion = self._ask_learner(method, version, lineage, epoch, what="publishing weights")
        return named

    def run_loops(self) -> None:
        """Let rollout and reward workers work until the stop sign."""
        self.supervisor.working()

    def join_loops(self, patience_s: float) -> None:
        """Have the workers finish what they have in hand; those that do not come to an end in time are killed."""
        self.supervisor.drain(patience_s)
        busy = {State.DRAINING}
        self._follow(lambda: not self._states("rollout", "reward") & busy, "stopping rollout and reward workers")
        self.supervisor.rest()

    def update(self, order: UpdateOrder) -> UpdateResult:
        """One update on all ranks."""
        result: UpdateResult = self._ask_learner("update", order, what="an update")
        return result

    def save(self, folder: Path | str, progress: Progress, config_digest: str) -> None:
        """Write a checkpoint."""
        self._ask_learner("save", folder, progress, config_digest, what="a checkpoint")

    def save_trained(self, folder: Path) -> None:
        """Write the averaged adapter or network as stock diffusers loads it."""
        self._ask_learner("save_trained", folder, what="saving the adapter")

    def strips(self) -> tuple[Strip, ...]:
        """The image strips of the averaged weights."""
        strips: tuple[Strip, ...] = self._ask_learner("strips", what="image strips", ranks=1)
        return strips

    def look(self) -> list[LookPart]:
        """A look of the held-out panel at the averaged weights, by all learner ranks together."""
        ranks = self._ranks()
        tasks = [LookTask(share=share, shares=len(ranks)) for share in range(len(ranks))]
        calls = [worker.call("look", task) for worker, task in zip(ranks, tasks, strict=True)]
        self._wait(calls, "a look of the held-out panel")
        parts: list[LookPart] = self._learner_results(calls, "a look of the held-out panel")
        return parts

    def evaluate(self, version: WeightsVersion | None, temperatures: tuple[float, ...]) -> EvaluationPart:
        """Evaluate on learners and rollout workers together: the averaged weights, published as `version`, or with
        None those before training. A share is the first rank's where a rollout worker dies of it, or finds no weights
        for it on a server that forgot them.
        """
        ranks = self._ranks()
        others = [m.worker for m in self.supervisor.members("rollout") if m.worker is not None]
        workers = [*ranks, *others]
        tasks = [
            EvaluationTask(version=version, temperatures=temperatures, share=share, shares=len(workers))
            for share in range(len(workers))
        ]
        calls = [worker.call("evaluate", task) for worker, task in zip(workers, tasks, strict=True)]
        self._wait(calls, "an evaluation")
        parts: list[EvaluationPart] = self._learner_results(calls[: len(ranks)], "an evaluation")
        for call, task in zip(calls[len(ranks) :], tasks[len(ranks) :], strict=True):
            if isinstance(failure(call), SHARE_LOST):
                self._note(f"share {task.share} of the evaluation is drawn again: {failure(call)}")
                again = [ranks[0].call("evaluate", task)]
                self._wait(again, "an evaluation")
                parts += self._learner_results(again, "an evaluation")
            else:
                parts += results([call], self._timeout_s, "an evaluation")
        return EvaluationPart(
            images=sum(part.images for part in parts),
            exact={t: sum(part.exact[t] for part in parts) for t in temperatures},
            judge_exact={t: sum(part.judge_exact[t] for part in parts) for t in temperatures},
        )

    def _states(self, *roles: Role) -> set[State]:
        return {member.life.state for member in self.supervisor.members(*roles)}

    def _ranks(self) -> list[Worker]:
        return [member.alive for member in self.supervisor.members("learner")]

    def _ask_learner(self, method: str, *arguments: object, what: str, ranks: int | None = None) -> Any:  # noqa: ANN401
        """The first rank's answer to a call of all ranks, or of the first few."""
        calls = [worker.call(method, *arguments) for worker in self._ranks()[:ranks]]
        self._wait(calls, what)
        return self._learner_results(calls, what)[0]

    def _wait(self, calls: Sequence[Any], what: str) -> None:
        """Until all calls are over. A learner that takes longer than a stall is ended: LearnerLost."""
        deadline = time.monotonic() + self._timeout_s
        while len(finished(calls, POLL_S)) < len(calls):
            self.tick()
            if time.monotonic() > deadline:
                reason = f"{what}: no answer for {self._timeout_s:.0f} s (fleet.stall_timeout_s)"
                self._note(f"{reason}; stacks in {self.supervisor.dump_stacks(reason)}")
                self.supervisor.end_learner(reason)
                raise LearnerLost(reason)

    def _learner_results(self, calls: Sequence[Any], what: str) -> list[Any]:
        """The ranks' answers. An error that came with a rank's death is LearnerLost."""
        try:
            return results(calls, self._timeout_s, what)
        except Exception as error:  # the edge: told apart by whether a process is gone
            ranks = [member for member in self.supervisor.members("learner") if member.worker is not None]
            deadline = time.monotonic() + (DEATH_S if len(ranks) > 1 or isinstance(error, WorkerFailed) else 0.0)
            while True:
                dead = [member for member in ranks if member.alive.death() is not None]
                if dead:
                    reason = f"{dead[0].slot}: {dead[0].alive.death()}"
                    self.supervisor.end_learner(reason)
                    raise LearnerLost(reason) from error
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def _follow(self, done: Callable[[], bool], what: str) -> None:
        """Tick until `done`. The state machine has a deadline for every state; this one is against its own mistakes."""
        watch = self._config.fleet.supervision
        deadline = time.monotonic() + 2 * (watch.restarts + 1) * (watch.start_timeout_s + watch.backoff_max_s)
        while not done():
            self.tick()
            if time.monotonic() > deadline:
                raise StalledError(f"{what}: not done; stacks in {self.supervisor.dump_stacks(what)}")
            time.sleep(POLL_S)


def without_servers(config: RunConfig) -> RunConfig:
    """The run file as its workers get it: where their server is they know from their link, and nobody else's URL."""
    fleet = config.fleet.model_copy(update={"redis": None, "redis_users": RedisUsersConfig()})
    return config.model_copy(update={"fleet": fleet})
