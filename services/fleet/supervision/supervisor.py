"""The supervisor: looks at every worker, replaces what died, and ends the run when that cannot help.

`tick` is called wherever the driver waits, never blocks for long and needs no thread. Rollout and reward workers are
replaced here; a rank of the learner is only noticed and its peers ended with it, since what follows is the
controller's: the run goes back to a checkpoint.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from services.config import FleetConfig, RoleConfig
from services.errors import ConfigError, LearnerLost, WorkerFailed
from services.fleet.supervision.actors import Worker, deaths, failure, finished, lost_nodes, results
from services.fleet.supervision.heartbeat import Beat, Hearts
from services.fleet.supervision.lifecycle import (
    HOPEFUL,
    LIVING,
    Life,
    Seen,
    State,
    advance,
    drained,
    forgiven,
    killed,
    limits_of,
    restarted,
)
from services.fleet.supervision.lost_nodes import Death, Inquest
from services.fleet.supervision.member import ROLES, Member, Role
from services.fleet.supervision.quorum import Quorum
from services.fleet.supervision.stacks import write_stacks
from services.observe.workers import WorkerFigures

LOOK_EVERY_S = 0.5
LOOK_MEMBER_S = 1e-3
"""Between two looks, for each member: a large fleet is looked at less often, and costs the driver no larger share."""
SHOW_EVERY_S = 1.0
STACKS_TIMEOUT_S = 3.0
DRAINED = "drained"
LOOK_CREDIT_S = 2.0
"""At most so much silence is counted for one look: a driver that was itself stopped has heard nobody."""


class Supervisor:
    """Owns the processes of all workers of a run."""

    def __init__(
        self,
        fleet: FleetConfig,
        hearts: Hearts,
        *,
        place: Callable[[str, RoleConfig], Worker],
        build: Callable[[Member], Any],
        release: Callable[[str], object],
        folder: Path,
        note: Callable[[str], None],
        show: Callable[[Sequence[WorkerFigures]], None],
        deaths: Callable[[Sequence[Worker]], Mapping[str, str]] = deaths,
        lost_nodes: Callable[[], Set[str]] = lost_nodes,
    ) -> None:
        """place: gives a slot a process. build: starts a member's worker, returns the reference that is ready when it
        is built. release: gives back what the worker of that slot had claimed; its process is dead. folder: the run's.
        note: tells the operator. show: tells the observers, about once a second. deaths: why those are gone that are.
        lost_nodes: which of the cluster's nodes are no more.
        """
        self._deaths = deaths
        self._inquest = Inquest(lost_nodes)
        self._show = show
        self._shown = 0.0
        self._hearts = hearts
        self._place_worker = place
        self._build = build
        self._release = release
        self._folder = folder
        self._note = note
        self._limits = limits_of(fleet.supervision)
        self._jitter = random.Random()
        self._members: dict[str, Member] = {}
        self._specs: dict[Role, RoleConfig] = {
            "learner": fleet.learner,
            "rollout": fleet.rollout,
            "reward": fleet.reward,
        }
        self._wanted: dict[Role, int] = {}
        self._ending = False
        self._working = False
        self._looked = self._now = time.monotonic()
        self._quorum = Quorum(fleet)

    def start(self) -> None:
        """Start every worker's process; `tick` follows them."""
        self._hearts.clear()
        for role in ROLES:
            for index in range(self._specs[role].workers):
                self._add(role, f"{role}-{index}")
        for role in ROLES:
            for member in self.members(role):
                self._spawn(member)

    def members(self, *roles: Role) -> list[Member]:
        """The members of these roles, of all without any."""
        return [member for member in self._members.values() if not roles or member.role in roles]

    def working(self) -> None:
        """From now on rollout and reward workers run their loops; a restarted one begins by itself."""
        self._working = True
        self._quorum.begin(time.monotonic())
        for member in self.members("rollout", "reward"):
            if member.life.state is State.HEALTHY:
                member.loop = member.alive.call("run")

    def drain(self, patience_s: float) -> None:
        """Rollout and reward workers finish what they have in hand and come to rest; nothing is replaced any more."""
        self._limits = replace(self._limits, drain_s=patience_s)
        self._wanted.clear()
        self._ending = True
        for member in self.members("rollout", "reward"):
            self._retire(member)

    def resize(self, role: Role, workers: int) -> None:
        """Have so many workers of a role: new ones start in the lowest free slots; of those that are too many, the ones
        in the highest slots finish what they have in hand and end. `tick` sees to it.
        """
        if not self._ending:
            self._wanted[role] = workers

    def sizes(self) -> dict[Role, int]:
        """How many workers there are of rollout and reward, those included that start, without those that leave."""
        return {
            role: sum(member.life.state in HOPEFUL for member in self.members(role)) for role in ("rollout", "reward")
        }

    def rest(self) -> None:
        """After a drain: the loops are over, the workers that still live may be called."""
        self._working = False

    def tick(self) -> None:
        """Look after everybody. Raises LearnerLost once when the learner is over, WorkerFailed when the run is, and
        what a worker said that cannot be built, ConfigError where a setting is the cause.
        """
        self._now = time.monotonic()
        if self._now - self._looked < max(LOOK_EVERY_S, LOOK_MEMBER_S * len(self._members)):
            return
        beats = self._hearts.read()
        elapsed = 0.0 if beats is None else min(self._now - self._looked, LOOK_CREDIT_S)
        self._looked = self._now
        living = [member.worker for member in self.members() if member.worker and member.life.state in LIVING]
        gone, over = self._deaths(living), self._over()
        lost = None
        for member in self.members():
            before, seen = member.life, self._see(member, beats or {}, gone, over, elapsed)
            life = advance(before, seen, self._limits, self._jitter.random())
            if life.state is State.DEAD and before.state is not State.DEAD and member.role == "learner":
                lost = f"{member.slot}: {life.reason}"
            self._become(member, life)
        for role, workers in self._wanted.items():
            self._fit(role, workers)
        if self._now - self._shown > SHOW_EVERY_S:
            self._shown = self._now
            self._forgive()
            self._show([member.figures() for member in self.members()])
        if lost is not None:
            self.end_learner(lost)
            raise LearnerLost(lost)
        for role in ROLES:
            lives = [member.life for member in self.members(role)]
            self._quorum.require(role, lives, self._now, working=self._working)

    def end_learner(self, reason: str) -> None:
        """End every rank: none can go on without its peers."""
        for member in self.members("learner"):
            self._become(member, killed(member.life, self._now, reason))

    def respawn_learner(self) -> bool:
        """Start all ranks anew when their pause is over; whether it was. WorkerFailed if their budget is spent."""
        ranks = self.members("learner")
        now = time.monotonic()
        if any(member.life.state is not State.RESTARTING or member.life.retry_at > now for member in ranks):
            return False
        for member in ranks:
            member.life = restarted(member.life, now)
            self._place(member)
        for member in ranks:
            self._spawn(member)
        return True

    def dump_stacks(self, why: str) -> Path:
        """Every process's stacks, into the run folder."""
        living = [member for member in self.members() if member.life.state in LIVING and member.worker is not None]
        return self._dump(why, living)

    def _dump(self, why: str, members: Sequence[Member]) -> Path:
        asked = {member.slot: member.alive.stacks() for member in members}
        answered = finished(list(asked.values()), STACKS_TIMEOUT_S) if asked else []
        return write_stacks(self._folder, why, {slot: _stacks_of(ref, answered) for slot, ref in asked.items()})

    def _add(self, role: Role, slot: str) -> None:
        old = self._members.get(slot)
        life = Life(since=self._now, incarnation=0 if old is None else old.life.incarnation + 1)
        member = Member(slot, role, self._specs[role], life)
        if old is not None:
            member.past, member.deaths, member.deaths_forgiven = old.totals, old.deaths, old.deaths_forgiven
        self._members[slot] = member
        self._place(self._members[slot])

    def _fit(self, role: Role, workers: int) -> None:
        """One step towards so many workers; a slot that still drains is filled again when it is free."""
        slots = [f"{role}-{index}" for index in range(workers)]
        for slot in slots:
            member = self._members.get(slot)
            if member is None or member.life.state is State.STOPPED:
                self._add(role, slot)
                self._spawn(self._members[slot])
        for member in self.members(role):
            if member.slot not in slots and member.life.state in HOPEFUL:
                member.leaving = True
                self._retire(member)

    def _place(self, member: Member) -> None:
        """An actor for the slot; nothing is built in it yet."""
        member.past, member.beat = member.totals, None
        member.worker = self._place_worker(member.slot, member.spec)

    def _spawn(self, member: Member) -> None:
        member.loop = None
        member.building = self._build(member)

    def _over(self) -> set[Any]:
        """Which buildings and loops of the members are over; one question to Ray for all of them."""
        asked = [call for member in self.members() for call in (member.building, member.loop) if call is not None]
        return set(finished(asked)) if asked else set()

    def _see(
        self,
        member: Member,
        beats: Mapping[str, Beat],
        gone: Mapping[str, str],
        over: Set[Any],
        elapsed_s: float,
    ) -> Seen:
        if member.life.state not in LIVING:
            return Seen(now=self._now)
        beat = beats.get(member.slot)
        fresh = beat is not None and beat.incarnation == member.life.incarnation and beat != member.beat
        if fresh:
            member.beat = beat
        ended = gone.get(member.slot) or self._ended(member, over)
        return Seen(
            now=self._now,
            elapsed_s=elapsed_s,
            beat=fresh,
            ready=self._ready(member),
            work_s=0.0 if member.beat is None or member.role == "learner" else member.beat.work_s,
            ended=ended,
        )

    def _ended(self, member: Member, over: Set[Any]) -> str | None:
        """Why a living process does not work: its worker could not be built, or its loop is over."""
        if member.building is not None and member.building in over:
            error = failure(member.building)
            if error is not None:
                if not self._working and not member.life.incarnation and not isinstance(error, WorkerFailed):
                    raise _said(error)  # the worker said no from the start: doing it again ends the same way
                return f"{type(error).__name__}: {error}"
            member.building = None
            if self._working and member.role != "learner" and member.life.state is State.STARTING:
                member.loop = member.alive.call("run")
        if member.loop is not None and member.loop in over:
            error = failure(member.loop)
            if member.life.state is State.DRAINING:
                return DRAINED if error is None else str(error)
            return "its loop ended" if error is None else f"{type(error).__name__}: {error}"
        return None

    def _ready(self, member: Member) -> bool:
        if member.building is not None:
            return False
        return not self._working or member.role == "learner" or (member.beat is not None and member.beat.ready)

    def _become(self, member: Member, life: Life) -> None:
        """Act on a change of state."""
        before, member.life = member.life, life
        if life.state is State.RESTARTING and member.role != "learner" and life.retry_at <= self._now:
            member.life = restarted(life, self._now)
            self._place(member)
            self._spawn(member)
        if life.state is before.state:
            return
        unfinished = life.state is State.STOPPED and before.state is State.DRAINING and life.reason != DRAINED
        if life.state is State.DEAD or unfinished:
            self._bury(member)
        elif life.state is State.STOPPED and member.leaving:
            self._dismiss(member)
        elif life.state is State.HEALTHY and before.state is State.STARTING and member.died_at:
            self._note(f"{member.slot} is back after {self._now - member.died_at:.1f} s")
        elif life.state is State.FAILED:
            self._note(f"{member.slot} is given up: its restarts are spent")

    def _bury(self, member: Member) -> None:
        """Make sure that the process is over, and give back what it had claimed."""
        reason, member.died_at = member.life.reason.removeprefix(f"{member.slot}: "), self._now
        member.deaths += 1
        if member.alive.death() is None:
            path = self._dump(f"{member.slot} {reason}", [member])
            reason += f"; stacks in {path}"
        self._inquest.add(Death(slot=member.slot, at=member.life.since, worker=member.alive))
        member.alive.kill()
        member.worker = member.building = member.loop = None
        self._note(f"{member.slot} died: {reason}")
        if member.role != "learner":
            self._release(member.slot)

    def _forgive(self) -> None:
        """What died with its node is not held against its slot, nor against the ranks that were ended with it."""
        for death in self._inquest.close(self._now):
            self._note(f"{death.slot} had died with its node, which is not held against it")
            peers = (
                self.members("learner") if self._members[death.slot].role == "learner" else [self._members[death.slot]]
            )
            for member in peers:
                kept = forgiven(member.life, death.at)
                member.deaths_forgiven += len(member.life.deaths) - len(kept.deaths)
                member.life = kept

    def _dismiss(self, member: Member) -> None:
        """End the process of a worker that has left."""
        if member.worker is not None:
            member.worker.kill()
            member.worker = member.building = member.loop = None
        self._note(f"{member.slot} has left")
        self._release(member.slot)

    def _retire(self, member: Member) -> None:
        life = drained(member.life, time.monotonic())
        if member.worker is not None and life.state is State.DRAINING:
            member.worker.leave()
        elif member.worker is not None and life.state is State.STOPPED and member.life.state is State.STARTING:
            member.worker.kill()
            member.worker = member.building = member.loop = None
        self._become(member, life)


def _stacks_of(reference: Any, answered: Iterable[Any]) -> str:  # noqa: ANN401 - an ObjectRef
    if reference not in answered:
        return f"no answer in {STACKS_TIMEOUT_S:.0f} s: the process is stopped, or a call into C does not return"
    error = failure(reference)
    return str(error) if error is not None else str(results([reference], 1.0, "stacks")[0])


def _said(error: Exception) -> Exception:
    """What a worker said that could not be built; a plain ValueError is the user's mistake, in one sentence."""
    return ConfigError(str(error)) if type(error) is ValueError else error
