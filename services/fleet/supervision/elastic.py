"""Heeds what is asked of a run that is going on, and fits its fleets to their work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from services.config import FleetConfig
from services.data.ledger import Stage
from services.data.queue import Queue
from services.errors import QueueError, ServerUnavailable
from services.fleet.supervision.asked import Requests
from services.fleet.supervision.autoscale import Seen, workers_wanted
from services.fleet.supervision.member import Role
from services.fleet.supervision.supervisor import Supervisor

LOOK_EVERY_S = 1.0
STAGE_OF: Mapping[Role, Stage] = {"rollout": "tickets", "reward": "groups"}
"""What waits for whom."""


@dataclass(slots=True)
class Window:
    """What was seen of a role since its beginning."""

    since: float
    busy_s: float  # of all workers, at its beginning
    idle_s: float
    looks: int = 0
    waiting: int = 0  # summed over the looks


class Elastic:
    """Called from wherever the driver waits; looks about once a second, and decides once a window."""

    def __init__(
        self,
        fleet: FleetConfig,
        supervisor: Supervisor,
        queue: Queue,
        requests: Requests,
        *,
        drain: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        """drain: raises the stop sign in somebody's name. note: tells the operator."""
        self._fleet = fleet
        self._supervisor = supervisor
        self._queue = queue
        self._requests = requests
        self._drain = drain
        self._note = note
        self._looked = 0.0
        self._windows: dict[Role, Window] = {}

    def tick(self) -> None:
        """Look, if it is time to. While the server is away nothing is asked and nothing seen."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        with suppress(ServerUnavailable, QueueError):
            self._heed()
            if self._fleet.scaling is not None:
                self._scale(now)

    def _heed(self) -> None:
        asked = self._requests.take()
        if asked.drain:
            self._drain("tafs drain")
        for role in STAGE_OF:
            if role in asked.workers:
                self._resize(role, max(self._least(role), asked.workers[role]), "tafs scale")

    def _scale(self, now: float) -> None:
        scaling = self._fleet.scaling
        assert scaling is not None
        stages = self._queue.statistics().stages
        for role, stage in STAGE_OF.items():
            bounds = scaling.rollout if role == "rollout" else scaling.reward
            if bounds is None:
                continue
            window = self._windows.get(role) or self._open(role, now)
            window.looks += 1
            window.waiting += stages[stage].ready
            if now - window.since < scaling.every_s:
                continue
            busy_s, idle_s = self._seconds(role)
            busy, idle = busy_s - window.busy_s, idle_s - window.idle_s
            seen = Seen(
                workers=self._supervisor.sizes()[role],
                busy=busy / (busy + idle) if busy + idle > 0 else 0.0,
                waiting=window.waiting / window.looks,
            )
            wanted = workers_wanted(seen, max(bounds[0], self._least(role)), bounds[1])
            if wanted != seen.workers:
                self._resize(role, wanted, f"busy {seen.busy:.0%}, {seen.waiting:.1f} waiting")
            self._open(role, now)

    def _resize(self, role: Role, workers: int, why: str) -> None:
        before = self._supervisor.sizes()[role]
        self._supervisor.resize(role, workers)
        self._note(f"{role}: {before} -> {workers} workers ({why})")

    def _least(self, role: Role) -> int:
        watch = self._fleet.supervision
        return watch.min_healthy_rollout if role == "rollout" else watch.min_healthy_reward

    def _open(self, role: Role, now: float) -> Window:
        self._windows[role] = Window(now, *self._seconds(role))
        return self._windows[role]

    def _seconds(self, role: Role) -> tuple[float, float]:
        totals = [member.totals for member in self._supervisor.members(role)]
        return sum(one.busy_s for one in totals), sum(one.idle_s for one in totals)
