"""`tafs bench-fleet`: what the controller costs, and how long the learner waits, with a fleet of any size.

The controller, the supervisor, the janitor, the queue, payloads, weights and heartbeats are the run's own; the workers
are simulated (services/fleet/workers/simulated.py), three processes of them, and the learner is a fourth. With
`--actors` the same fleet runs a second time as Ray actors, one for each worker: does a group cost the controller as
much there?
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from rollout.types import WeightsVersion
from services.config import RunConfig
from services.data.blobs import build_blobs
from services.data.lease import Sweeping
from services.data.queue import Queue, accounting_holds
from services.data.server import EmbeddedServer, connect
from services.errors import StalledError
from services.fleet.messages import Progress, UpdateOrder, UpdateResult
from services.fleet.planning.placement import Needs
from services.fleet.run.controller import Controller
from services.fleet.supervision.actors import Worker, deaths, ray_session
from services.fleet.supervision.fleet import Fleet
from services.fleet.supervision.heartbeat import Hearts
from services.fleet.supervision.lifecycle import State
from services.fleet.supervision.member import Member
from services.fleet.supervision.supervisor import Supervisor
from services.fleet.workers.simulated import Crew, Latencies, run_crew, run_learner, shares
from services.observe.history import UpdateRecord
from services.observe.journeys import Journey

CREWS = 3
POLL_S = 0.1
END_S = 15.0
BUILD_S = 300.0


class Nobody:
    """In the place of an actor: it lives, and cannot be told anything."""

    def death(self) -> str | None:
        """It never dies."""
        return None

    def died_with(self, nodes: Set[str]) -> bool:
        """It has no node."""
        return False

    def call(self, method: str) -> None:
        """Not heard."""

    def kill(self) -> None:
        """Nor this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crews:
    """Where the simulated workers are, as the supervisor sees them."""

    name: str
    place: Callable[[str], Worker]
    build: Callable[[Member], Any]
    start: Callable[[Supervisor], None]


class SimulatedFleet:
    """What the controller drives: the real supervisor over workers that are in other processes."""

    def __init__(self, config: RunConfig, supervisor: Supervisor, learner: Connection) -> None:
        self._timeout_s = config.fleet.stall_timeout_s
        self._supervisor = supervisor
        self._learner = learner

    def keep_server(self) -> None:
        """It is not killed here."""

    def tick(self) -> None:
        """Look after the workers."""
        self._supervisor.tick()

    def dump_stacks(self, why: str) -> Path:
        """There are none."""
        return Path("nowhere")

    def publish(self, version: int, lineage: int, epoch: int, *, average: bool) -> WeightsVersion:
        """Have the weights published."""
        return cast(WeightsVersion, self._ask("publish", (version, lineage, epoch)))

    def update(self, order: UpdateOrder) -> UpdateResult:
        """Have an update made."""
        return cast(UpdateResult, self._ask("update", order))

    def _ask(self, what: str, given: object) -> Any:  # noqa: ANN401
        self._learner.send((what, given))
        deadline = time.monotonic() + self._timeout_s
        while not self._learner.poll(POLL_S):
            self.tick()
            if time.monotonic() > deadline:
                raise StalledError(f"the simulated learner did not answer for {self._timeout_s:.0f} s")
        return self._learner.recv()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one fleet cost."""

    workers: str  # what they are
    rollouts: int
    rewards: int
    staleness: int
    groups: int
    seconds: float
    controller_ms: float  # its process's CPU a group
    wait: float  # share of the time in which the learner waited for groups


def simulate(config: RunConfig, latencies: Latencies, updates: int, *, actors: bool = False) -> Figures:
    """Run so many updates, the first of which is not counted, and check the account. actors: every worker is one of
    Ray's, else they are threads of three processes.
    """
    context = _context()
    crews = _in_actors if actors else _in_processes
    with tempfile.TemporaryDirectory(prefix="tafs-bench-") as folder, EmbeddedServer() as server:
        config = config.model_copy(update={"runs": Path(folder)})
        crew = Crew(redis_url=server.url, config=config, slots=(), latencies=latencies)
        ours, theirs = context.Pipe()
        learner = context.Process(target=run_learner, args=(crew, theirs), daemon=True)
        with crews(crew) as workers:
            try:
                learner.start()
                return _drive(config, server.url, ours, updates, workers)
            finally:
                ours.close()
                _end(learner)


def _context() -> ForkServerContext:
    """Processes of one that has imported what a simulated worker needs, once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["services.fleet.workers.simulated"])
    return context


@contextmanager
def _in_processes(crew: Crew) -> Iterator[Crews]:
    context = _context()
    fleet = crew.config.fleet
    counts = {"rollout": fleet.rollout.workers, "reward": fleet.reward.workers}
    slots = [f"{role}-{index}" for role, count in counts.items() for index in range(count)]
    processes = [
        context.Process(target=run_crew, args=(replace(crew, slots=part),), daemon=True)
        for part in shares(slots, CREWS)
    ]

    def start(supervisor: Supervisor) -> None:
        for process in processes:
            process.start()

    try:
        yield Crews(
            name=f"threads of {CREWS} processes",
            place=lambda slot: cast(Worker, Nobody()),
            build=lambda member: None,
            start=start,
        )
    finally:
        for process in processes:
            _end(process)


@contextmanager
def _in_actors(crew: Crew) -> Iterator[Crews]:
    def place(slot: str) -> Worker:
        return cast(Worker, Nobody()) if slot.startswith("learner") else Worker(slot, Needs(), None)

    def build(member: Member) -> Any:  # noqa: ANN401 - an ObjectRef
        return None if member.role == "learner" else member.alive.start("simulated", crew, member.slot)

    with ray_session():
        yield Crews(name="Ray actors", place=place, build=build, start=_follow)


def _end(process: BaseProcess) -> None:
    if process.pid:
        process.join(END_S)
        process.kill()


def _drive(config: RunConfig, url: str, learner: Connection, updates: int, workers: Crews) -> Figures:
    redis = connect(url)
    queue = Queue(redis, config.name)
    records: list[UpdateRecord] = []
    spent: list[tuple[float, float]] = []

    def observe(record: UpdateRecord, journeys: Sequence[Journey]) -> None:
        records.append(record)
        spent.append((time.process_time(), time.monotonic()))

    supervisor = Supervisor(
        config.fleet,
        Hearts(redis, config.name),
        place=lambda slot, spec: workers.place(slot),
        build=workers.build,
        release=queue.release,
        folder=config.runs,
        note=lambda text: None,
        show=lambda workers: None,
        deaths=lambda living: deaths([worker for worker in living if isinstance(worker, Worker)]),
        lost_nodes=set,
    )
    fleet = cast(Fleet, SimulatedFleet(config, supervisor, learner))
    controller = Controller(
        config,
        fleet,
        queue,
        build_blobs(config.fleet.blobs, redis, config.name),
        observe,
        checkpoints=config.runs,
        note=lambda text: None,
        rolled_back=lambda update: None,
    )
    progress = controller.begin(Progress())
    supervisor.start()
    workers.start(supervisor)
    supervisor.working()
    with Sweeping(queue, config.fleet.supervision.lease_s):
        controller.run(
            progress, lambda now: None, halt=lambda: len(records) > updates, drain=lambda: len(records) > updates
        )
    found = queue.statistics()
    queue.request_stop("done")
    if not accounting_holds(found):
        raise StalledError(f"the account does not add up: {found}")
    return _figures(config, workers, records, spent)


def _follow(supervisor: Supervisor) -> None:
    """Until every worker is built."""
    deadline = time.monotonic() + BUILD_S
    while any(member.life.state is not State.HEALTHY for member in supervisor.members()):
        supervisor.tick()
        if time.monotonic() > deadline:
            raise StalledError(f"the simulated workers were not built within {BUILD_S:.0f} s")
        time.sleep(POLL_S)


def _figures(
    config: RunConfig, workers: Crews, records: Sequence[UpdateRecord], spent: Sequence[tuple[float, float]]
) -> Figures:
    groups = (len(records) - 1) * config.learning.groups_per_update
    (cpu, began), (cpu_end, ended) = spent[0], spent[-1]
    return Figures(
        workers=workers.name,
        rollouts=config.fleet.rollout.workers,
        rewards=config.fleet.reward.workers,
        staleness=config.fleet.max_staleness,
        groups=groups,
        seconds=ended - began,
        controller_ms=1000 * (cpu_end - cpu) / groups,
        wait=statistics.fmean(_wait(record.phase_seconds) for record in records[1:]),
    )


def _wait(phases: Mapping[str, float]) -> float:
    return phases["wait"] / max(sum(phases.values()), 1e-9)


def print_figures(rows: Sequence[Figures], console: Console) -> None:
    """The table."""
    table = Table("workers", "rollouts", "rewards", "staleness", "groups", "groups/s", "CPU ms/group", "learner waits")
    for row in rows:
        table.add_row(
            row.workers,
            str(row.rollouts),
            str(row.rewards),
            str(row.staleness),
            str(row.groups),
            f"{row.groups / row.seconds:.1f}",
            f"{row.controller_ms:.2f}",
            f"{row.wait:.1%}",
        )
    console.print(table)
