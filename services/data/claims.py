"""What workers hold, and since when they last said that they still do: for whoever looks at a run from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from redis.exceptions import ResponseError

from services.data.keys import run_key
from services.data.ledger import STAGES
from services.data.server import reaching_server
from services.errors import QueueError

MOST = 10_000
"""Claims of a stage that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The claims of one slot."""

    claims: int
    lease_age_s: float  # since the one renewed longest ago was renewed, by the server's clock


def held_by_slot(redis: Redis, run: str) -> Mapping[str, Held]:
    """The claims of every slot that has any. ServerUnavailable where the server does not answer."""
    found: dict[str, Held] = {}
    for stage in STAGES:
        with reaching_server(QueueError, f"look at the claims of run {run!r}"):
            try:
                rows = redis.xpending_range(run_key(run, stage), stage, "-", "+", MOST)
            except ResponseError:  # the run has not begun there
                continue
        for row in cast("list[dict[str, Any]]", rows):
            slot = row["consumer"].decode().partition("/")[0]
            before = found.get(slot, Held(claims=0, lease_age_s=0.0))
            age_s = max(before.lease_age_s, row["time_since_delivered"] / 1e3)
            found[slot] = Held(claims=before.claims + 1, lease_age_s=age_s)
    return found
