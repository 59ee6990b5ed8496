"""How full the Redis server is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from redis import Redis
from redis.exceptions import NoPermissionError

from services.data.server import reaching_server
from services.errors import QueueError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMemory:
    """Memory of the whole server, whoever else uses it."""

    used_bytes: int
    limit_bytes: int  # maxmemory; 0: none


def read_memory(redis: Redis) -> ServerMemory | None:
    """The server's memory; None where the run's user has no right to ask (INFO)."""
    with reaching_server(QueueError, "ask the server for its memory"):
        try:
            told = cast("dict[str, int]", redis.info("memory"))
        except NoPermissionError:
            return None
    return ServerMemory(used_bytes=told["used_memory"], limit_bytes=told["maxmemory"])
