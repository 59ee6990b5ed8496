"""The runs that the chaos tests hurt."""

import json
from collections.abc import Iterable
from pathlib import Path

from tests.e2e.going import LONG, RECOVERY_S, Going, recoveries

from .watch import Watch

UPDATES = 12
RUN = (*LONG, f"learning.updates={UPDATES}")
MANY = ("fleet.supervision.restarts=40", "fleet.supervision.backoff_s=0.1")
"""Restarts are not what is tested."""
HASTY = ("fleet.supervision.suspect_after_s=3", "fleet.supervision.dead_after_s=8")
ANSWERS_S = 10.0
"""From the server's answer to everybody's work."""


def ended(going: Going, code: int = 0) -> str:
    """The log of a run that ended with this code."""
    try:
        log = going.end()
    finally:
        going.close()
    assert going.process.returncode == code, log
    return log


def faulty(fault: str, marks: Path, prompt: str = "", calls: Iterable[int] = (1, 2, 3)) -> tuple[str, ...]:
    """Overrides: a reward that fails so (bad_rewards.py)."""
    options = json.dumps({"fault": fault, "marks": str(marks), "prompt": prompt, "calls": list(calls)})
    reward = f"{{use: 'tests.chaos.bad_rewards:Faulty', name: light, options: {options}}}"
    return (f"rewards=[{reward}]", "fleet.reward.groups_at_once=1", "fleet.supervision.hang_timeout_s=10")


def tell_recoveries(going: Going, recovered) -> None:
    """Every worker was back in time."""
    for role, seconds in recoveries(going.log.read_text()):
        recovered(f"{role} worker", seconds, RECOVERY_S[role])


def tell_next_updates(watch: Watch, moments: Iterable[float], recovered) -> None:
    """Behind every death of the learner an update followed in time."""
    for moment in moments:
        recovered("learner to its next update", watch.next_update_after(moment), RECOVERY_S["learner"])


def deaths(watch: Watch, role: str) -> float:
    """As the metrics told."""
    return watch.counted("tafs_worker_deaths_total", role=role)
