import pytest
from msgspec.structs import replace

from services.data.blobs import build_blobs
from services.data.orphans import OrphanSweeper
from services.data.queue import Ledger, Queue
from services.data.wire import ScoredEntry, encode
from services.errors import QueueError

from .entries import group_entry

GRACE_S = 100.0


@pytest.fixture(params=["redis", "file"])
def store(request, redis, tmp_path):
    return build_blobs({"redis": "redis://", "file": f"file://{tmp_path}"}[request.param], redis, "run")


@pytest.fixture
def sweeper(store, redis):
    return OrphanSweeper(store, redis, "run", GRACE_S)


def publish(queue, store, ordinal):
    [ticket] = queue.claim("tickets", "rollout-0/a", 1, 0)
    entry = replace(
        group_entry(ordinal),
        latents=store.put([f"{ordinal}/latents"], [b"latents"]),
        images=store.put([f"{ordinal}/images"], [b"images"]),
    )
    assert queue.publish("tickets", ticket, encode(entry), ordinal, 0)
    return entry


def test_blobs_of_groups_in_flight_stay_and_others_go_when_their_time_is_over(redis, queue, store, sweeper) -> None:
    queue.admit(0)
    drawn, scored = publish(queue, store, 0), publish(queue, store, 1)
    for claimed in queue.claim("groups", "reward-0/a", 2, 0):
        if claimed.payload == encode(scored):
            result = ScoredEntry(group=scored, rewards=(), producer="reward-0/a", scored_ms=0, timings={})
            assert queue.publish("groups", claimed, encode(result), 1, 0)
    store.put(["2/latents"], [b"of a worker that died before it published"])
    live = {ref.uri for entry in (drawn, scored) for ref in (*entry.latents, *entry.images)}
    assert sweeper.live() == live
    assert [sweeper.sweep(0.0), sweeper.sweep(GRACE_S - 1)] == [0, 0]
    assert len(list(store.uris())) == 5
    assert sweeper.sweep(GRACE_S) == 1
    assert set(store.uris()) == live
    assert sweeper.sweep(2 * GRACE_S) == 0


def test_a_young_orphan_that_finds_its_group_stays(queue, store, sweeper) -> None:
    queue.admit(0)
    early = store.put(["0/latents"], [b"stored, and published a little later"])
    assert sweeper.sweep(0.0) == 0
    [ticket] = queue.claim("tickets", "rollout-0/a", 1, 0)
    assert queue.publish("tickets", ticket, encode(replace(group_entry(0), latents=early)), 0, 0)
    assert sweeper.sweep(GRACE_S) == 0
    assert store.get(early)


def test_dead_letters_and_evicted_groups_leave_orphans(redis, store, sweeper) -> None:
    queue = Queue(redis, "run")
    queue.begin(Ledger(groups_per_update=2, max_staleness=0, total_groups=8, max_losses=0))
    queue.admit(0)
    publish(queue, store, 0)
    queue.claim("groups", "reward-0/a", 1, 0)
    assert queue.release("reward-0")[0].fate == "dead"
    assert [sweeper.sweep(0.0), sweeper.sweep(GRACE_S)] == [0, 2]


def test_nothing_is_deleted_while_an_entry_cannot_be_read(redis, queue, store, sweeper) -> None:
    store.put(["0/latents"], [b"named by the entry below, perhaps"])
    redis.xadd("{run}:groups", {"payload": b"of another release", "ordinal": 0})
    for now in (0.0, GRACE_S):
        with pytest.raises(QueueError):
            sweeper.sweep(now)
    assert len(list(store.uris())) == 1
