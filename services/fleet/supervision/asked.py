"""What a person asks of a run that is going on: to drain, or to have more or fewer workers.

Asked through the run's server by `tafs drain` and `tafs scale`, taken by the run's driver about once a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from redis import Redis

from services.data.keys import run_key
from services.data.server import reaching_server
from services.errors import QueueError

REQUESTS = "requests"
DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked since the last look."""

    drain: bool = False
    workers: Mapping[str, int] = field(default_factory=dict)  # by role: how many there should be


class Requests:
    """A run's requests. Raises ServerUnavailable where the server does not answer."""

    def __init__(self, redis: Redis, run: str) -> None:
        self._redis = redis
        self._key = run_key(run, REQUESTS)

    def ask_drain(self) -> None:
        """Ask the run to finish what is in flight, checkpoint and leave."""
        self._set({DRAIN: 1})

    def ask_workers(self, workers: Mapping[str, int]) -> None:
        """Ask for so many workers of these roles."""
        self._set(workers)

    def take(self) -> Asked:
        """What was asked since the last call; it is taken once."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hgetall(self._key)
        pipeline.delete(self._key)
        with reaching_server(QueueError, "read what was asked of the run"):
            found = cast("dict[bytes, bytes]", pipeline.execute()[0])
        asked = {name.decode(): int(value) for name, value in found.items()}
        return Asked(drain=bool(asked.pop(DRAIN, 0)), workers=asked)

    def _set(self, fields: Mapping[str, int]) -> None:
        with reaching_server(QueueError, "ask something of the run"):
            self._redis.hset(self._key, mapping={name: str(value) for name, value in fields.items()})
