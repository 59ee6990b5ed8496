"""A slot of the fleet: its worker of now, and what it has seen of others before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from services.config import RoleConfig
from services.fleet.supervision.actors import Worker
from services.fleet.supervision.heartbeat import Beat
from services.fleet.supervision.lifecycle import Life
from services.fleet.supervision.totals import NOTHING, Totals, add_beat
from services.observe.workers import WorkerFigures

Role = Literal["learner", "rollout", "reward"]
ROLES: tuple[Role, ...] = ("learner", "rollout", "reward")


@dataclass(slots=True, eq=False)
class Member:
    """A worker's slot, with the process that fills it now."""

    slot: str
    role: Role
    spec: RoleConfig
    life: Life
    worker: Worker | None = None
    building: Any = None  # an ObjectRef: ready when the worker is built
    loop: Any = None  # an ObjectRef: ready when its loop has ended
    beat: Beat | None = None
    past: Totals = NOTHING  # of the processes before this one
    deaths: int = 0
    deaths_forgiven: int = 0  # of these: they were their node's
    died_at: float = 0.0
    leaving: bool = False  # its process ends with its loop

    @property
    def alive(self) -> Worker:
        """The process of a member that has one."""
        assert self.worker is not None, f"{self.slot} has no process"
        return self.worker

    @property
    def totals(self) -> Totals:
        """What the slot has done over all its processes."""
        return self.past if self.beat is None else add_beat(self.past, self.beat)

    def figures(self) -> WorkerFigures:
        """The slot as the observers see it."""
        beat, totals = self.beat, self.totals
        return WorkerFigures(
            slot=self.slot,
            role=self.role,
            state=self.life.state.value,
            reason=self.life.reason,
            deaths=self.deaths,
            deaths_forgiven=self.deaths_forgiven,
            incarnation=self.life.incarnation,
            pid=0 if beat is None else beat.pid,
            host="" if beat is None else beat.host,
            phase="" if beat is None else beat.phase,
            work="" if beat is None else beat.work,
            silence_s=self.life.silence_s,
            busy_s=totals.busy_s,
            idle_s=totals.idle_s,
            groups=totals.groups,
            images=totals.images,
            rewards=dict(totals.rewards),
            version=0 if beat is None else beat.version,
            digest="" if beat is None else beat.digest,
            gpu_bytes=0 if beat is None else beat.gpu_bytes,
        )
