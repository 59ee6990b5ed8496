"""Enough healthy workers of every role, or the end of the run."""

from __future__ import annotations

from collections.abc import Sequence

from services.config import FleetConfig
from services.errors import WorkerFailed
from services.fleet.supervision.lifecycle import Life, State, healthy, why_hopeless
from services.fleet.supervision.member import ROLES, Role


class Quorum:
    """Asks for the least number of workers of each role: of the learner all ranks, at once; of rollout and reward what
    `fleet.supervision` says, after a grace.
    """

    def __init__(self, fleet: FleetConfig) -> None:
        self._grace_s = fleet.supervision.min_healthy_grace_s
        self._least: dict[Role, int] = {
            "learner": fleet.learner.workers,
            "rollout": fleet.supervision.min_healthy_rollout,
            "reward": fleet.supervision.min_healthy_reward,
        }
        self._enough: dict[Role, float] = {}  # when a role last had its least number of workers

    def begin(self, now: float) -> None:
        """The grace of every role begins: its workers are to work from now on."""
        self._enough = dict.fromkeys(ROLES, now)

    def require(self, role: Role, lives: Sequence[Life], now: float, *, working: bool) -> None:
        """WorkerFailed where the role can never have enough workers again, or has not had them for the grace. A role
        that drains is let be.
        """
        if any(life.state is State.DRAINING for life in lives):
            return
        least = self._least[role]
        if reason := why_hopeless(role, lives, least):
            raise WorkerFailed(reason)
        if role == "learner" or not working or healthy(lives) >= least:
            self._enough[role] = now
        elif now - self._enough[role] > self._grace_s:
            reasons = "; ".join(life.reason for life in lives if life.reason)
            raise WorkerFailed(
                f"{healthy(lives)} healthy {role} worker(s) for {self._grace_s:.0f} s, expected at least {least} "
                f"(fleet.supervision.min_healthy_{role}); last ends: {reasons}"
            )
