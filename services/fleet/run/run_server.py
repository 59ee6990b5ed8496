"""The server that holds a run's queue, its weights' versions and its payloads: a given one, or the run's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from services.config import RunConfig
from services.data.address import leave_address
from services.data.queue import Queue
from services.data.server import EmbeddedServer, connect
from services.errors import RunMissing, ServerUnavailable


@dataclass(frozen=True, slots=True)
class RunServer:
    """Where it is, and what the driver asks of it."""

    url: str
    redis: Redis
    queue: Queue
    own: EmbeddedServer | None

    def restarted(self) -> bool:
        """Whether the run's own server had died and was started again: it comes back empty, at its old address."""
        if self.own is None or self.own.alive:
            return False
        self.own.restart()
        return True

    def release(self, slot: str) -> None:
        """Give back what a dead worker had claimed; where the server is away, its leases run out instead."""
        with suppress(RunMissing, ServerUnavailable):
            self.queue.release(slot)


@contextmanager
def run_server(config: RunConfig, folder: Path) -> Iterator[RunServer]:
    """The server of `fleet.redis`, or one for the time of the context. The address of the run's own is left in its
    folder; another's password stays out of it.
    """
    with ExitStack() as stack:
        own, url = None, str(config.fleet.redis)
        if not config.fleet.redis:
            own = stack.enter_context(EmbeddedServer())
            url = own.url
            stack.enter_context(leave_address(folder, url))
        redis = connect(url)
        yield RunServer(url, redis, Queue(redis, config.name), own)
