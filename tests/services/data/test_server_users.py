"""The users of deploy/redis/users.acl: each role does all of its work with its own, and none is granted more.

One thread does what a run's roles do, one after the other, with the run's own classes, on good days and on bad ones;
MONITOR says what each of them asked of the server.
"""

import dataclasses

import pytest
import torch
from msgspec.structs import replace
from redis.exceptions import NoPermissionError, ResponseError

from rollout.trained import digest_tensors
from rollout.types import WeightsVersion
from services.data.blobs import RedisBlobs
from services.data.letters import DeadLetters
from services.data.orphans import OrphanSweeper
from services.data.queue import Ledger, Queue, accounting_holds
from services.data.weights import WeightsStore
from services.data.wire import GroupEntry, ScoredEntry, decode, encode
from services.errors import QueueError, WeightsError
from services.fleet.supervision.asked import Requests
from services.fleet.supervision.heartbeat import Heart, Hearts, Pulse

from .entries import group_entry
from .server_users import ROLES, Users, needless

pytestmark = pytest.mark.integration

LEDGER = Ledger(groups_per_update=2, max_staleness=5, total_groups=40, max_attempts=1)


@pytest.fixture
def users(server, redis, tmp_path):
    made = Users(server, redis, tmp_path / "users")
    yield made
    made.close()


@pytest.fixture
def run(users):
    small = SmallRun(users)
    yield small
    for queue in small.queue.values():
        queue.close()


class SmallRun:
    """What each role does, with objects of its own."""

    def __init__(self, users: Users) -> None:
        self.users = users
        self.queue = {role: Queue(users.clients[role], "run") for role in ROLES}
        self.blobs = {role: RedisBlobs(users.clients[role], "run") for role in ROLES}
        self.weights = {role: WeightsStore(users.clients[role], "run", keep=1) for role in ROLES}

    def begin(self) -> None:
        with self.users.acting("driver") as client:
            Hearts(client, "run").clear()
            self.queue["driver"].begin(LEDGER)
            self.queue["driver"].admit(0)

    def beat(self, role: str) -> None:
        with self.users.acting(role) as client:
            Heart(Pulse(f"{role}-0", 0), client, "run", 60.0).stop()

    def publish_weights(self, number: int) -> None:
        tensors = {"a.weight": torch.full((2,), float(number))}
        version = WeightsVersion(version=number, update=number, lineage=0, digest=digest_tensors(tensors))
        with self.users.acting("learner"):
            self.weights["learner"].publish(tensors, version, self.queue["driver"].epoch)

    def serve(self, role: str, stage: str, make) -> None:
        """Three groups go to the next stage; one is given back, one fails for good, one stays claimed."""
        with self.users.acting(role):
            queue, owner = self.queue[role], f"{role}-0/a"
            assert queue.stop_requested() is None
            *good, evicted, failed, held = queue.claim(stage, owner, 6, 0)
            assert {held.entry_id, *(claimed.entry_id for claimed in good)} <= queue.renew(owner)
            for claimed in good:
                entry, size_bytes = encode(make(claimed)), {"rollout": 7, "reward": 8}[role]
                for _ in range(2):  # the second is the same call again, after an answer that was lost
                    assert queue.publish(stage, claimed, entry, claimed.ordinal, 0, size_bytes)
            assert queue.evict(evicted, evicted.ordinal, "BlobError", stage) == "evicted"
            assert queue.fail(stage, failed, failed.ordinal, "it is cursed") == "dead"
            assert not queue.publish(stage, failed, b"late", failed.ordinal, 0)

    def draw(self, claimed) -> GroupEntry:
        version = self.weights["rollout"].latest()
        assert self.weights["rollout"].fetch(version)
        blobs = self.blobs["rollout"]
        blobs.delete(blobs.put(["spare"], [b"of a group that another worker drew"]))
        latents, images = blobs.put(["latents"], [b"latents"]), blobs.put(["images"], [b"images"])
        return replace(group_entry(claimed.ordinal), latents=latents, images=images)

    def score(self, claimed) -> ScoredEntry:
        group = decode(claimed.payload, GroupEntry)
        assert self.blobs["reward"].get(group.images) == [b"images"]
        self.blobs["reward"].delete(group.images)
        return ScoredEntry(group=group, rewards=(), producer="reward-0", scored_ms=0, timings={})

    def work(self) -> None:
        """Twelve tickets, of which six become groups; of these three are scored, and two of them learned from."""
        self.begin()
        self.publish_weights(1)
        self.begin()  # anew: what is left of the weights goes
        self.publish_weights(2)
        for role in ("learner", "rollout", "reward"):
            self.beat(role)
        for _ in range(2):
            self.serve("rollout", "tickets", self.draw)
        self.serve("reward", "groups", self.score)
        with self.users.acting("driver"):
            batch = self.queue["driver"].claim("scored", "controller/a", 3, 0)
        with self.users.acting("learner"):
            refs = [ref for claimed in batch for ref in decode(claimed.payload, ScoredEntry).group.latents]
            assert self.blobs["learner"].get(refs) == [b"latents"] * 3
        self.publish_weights(3)
        with self.users.acting("driver") as client:
            self.command(client, batch, refs)
        with self.users.acting("exporter") as client:
            assert self.queue["exporter"].statistics().updates_done == 1
            assert self.queue["exporter"].memory().used_bytes > 0
            assert DeadLetters(client, "run").all() == ()

    def command(self, client, batch, refs) -> None:
        """What the driver does when an update is made, and whenever something is lost."""
        queue = self.queue["driver"]
        queue.finish_update(1, batch[:2], [claimed.ordinal for claimed in batch[:2]])
        self.blobs["driver"].delete(refs)
        assert queue.evict(batch[2], batch[2].ordinal, "lineage") == "evicted"
        assert len(queue.release("rollout-0")) + len(queue.release("reward-0")) == 3
        assert queue.sweep(60.0) == ()
        assert queue.admit(0) > 0
        letters = DeadLetters(client, "run")
        one, two, three = (letter.ordinal for letter in letters.all())
        assert letters.retry([one]) == (one,)
        assert letters.drop([two, three]) == (two, three)
        requests = Requests(client, "run")
        requests.ask_drain()
        assert requests.take().drain
        assert set(Hearts(client, "run").read()) == {"learner-0", "rollout-0", "reward-0"}
        OrphanSweeper(self.blobs["driver"], client, "run", 600.0).sweep(0.0)
        assert queue.memory().used_bytes > 0
        assert accounting_holds(queue.statistics())
        queue.request_stop("done")
        consumed = tuple((claimed.ordinal, claimed.ordinal + 1) for claimed in batch[:2])
        heir = Queue(client, "run")
        heir.reconcile(dataclasses.replace(LEDGER, updates_done=1, consumed=consumed, frontier=20))
        assert heir.stop_requested() is None
        heir.close()


def test_every_role_does_all_of_its_work_and_is_granted_nothing_else(users, run) -> None:
    with users.watched() as seen:
        run.work()
    assert users.refused() == []
    assert {role: needless(role, seen[role]) for role in ROLES} == {role: [] for role in ROLES}


FORBIDDEN = {
    "driver": ["SET {run}:weights x", "HSET {run}:weights:9 0 x", "SET {run}:blob:x y", "HSET {run}:hearts a b"],
    "learner": [
        *("XREADGROUP GROUP scored me STREAMS {run}:scored >", "SET {run}:epoch 9", "SET {run}:stop now"),
        *("SET {run}:blob:x y", "UNLINK {run}:blob:x", "HSET {run}:ledger updates_done 9"),
    ],
    "rollout": [
        *("XADD {run}:scored * payload x", "XREADGROUP GROUP scored me STREAMS {run}:scored >"),
        *("SET {run}:weights x", "HSET {run}:weights:9 0 x", "SET {run}:epoch 9", "SET {run}:stop now"),
        *("GET {run}:blob:x", "HGETALL {run}:hearts", "DEL {run}:ledger", "XDEL {run}:dead 0-1"),
    ],
    "reward": [
        *("XADD {run}:groups * payload x", "XREADGROUP GROUP tickets me STREAMS {run}:tickets >"),
        *("SET {run}:blob:x y", "GET {run}:weights", "HGET {run}:weights:9 0", "SET {run}:epoch 9"),
    ],
    "exporter": [
        *("SET {run}:stop now", "XADD {run}:dead * a b", "HSET {run}:ledger a b", "XACK {run}:scored scored 0-1"),
        *("GET {run}:weights", "HSET {run}:requests drain 1", "XREADGROUP GROUP scored me STREAMS {run}:scored >"),
    ],
}
REFUSED = r"permission|can't run|NOPERM"
DANGEROUS = ("FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "SCRIPT FLUSH", "MONITOR", "SHUTDOWN", "CLIENT LIST")
FOREIGN = (
    *("GET {other}:weights", "SET {other}:stop now", "HGETALL {other}:ledger", "XRANGE {other}:groups - +"),
    *("UNLINK {other}:blob:x", "MGET {other}:blob:x", "HGET {other}:weights:1 0", "XADD {other}:scored * a b"),
)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_refused_another_ones_work_another_runs_keys_and_whatever_is_dangerous(users, run, role) -> None:
    run.begin()
    client = users.clients[role]
    for command in (*FORBIDDEN[role], *DANGEROUS, *FOREIGN):
        with pytest.raises(NoPermissionError):
            client.execute_command(*command.split())
    inside = "return redis.call('GET', '{other}:weights')"
    for evaluated in ("EVAL", "EVAL_RO"):
        with pytest.raises(ResponseError, match=REFUSED):  # a script can do no more than its caller
            client.execute_command(evaluated, inside, 0)
    with pytest.raises(QueueError, match=REFUSED):
        Queue(client, "other").begin(LEDGER)


def test_only_the_learner_publishes_weights_and_only_the_driver_takes_a_run_over(users, run) -> None:
    run.begin()
    tensors = {"a.weight": torch.ones(2)}
    version = WeightsVersion(version=1, update=1, lineage=0, digest=digest_tensors(tensors))
    for role in ("driver", "rollout", "reward", "exporter"):
        with pytest.raises(WeightsError, match=REFUSED):
            run.weights[role].publish(tensors, version, run.queue["driver"].epoch)
    for role in ("learner", "rollout", "reward", "exporter"):
        with pytest.raises(QueueError, match=REFUSED):
            run.queue[role].begin(LEDGER)
    run.publish_weights(1)
    assert run.weights["rollout"].latest() == version
