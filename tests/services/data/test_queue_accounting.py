"""Whatever workers do and in whatever order, every attempt has one fate and no ordinal is consumed twice."""

import time
from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.data.letters import DeadLetters
from services.data.queue import Ledger, Queue, accounting_holds
from services.data.wire import Ticket, decode
from services.errors import QueueError

STEPS = (
    "admit",
    "draw",
    "score",
    "learn",
    "fail",
    "evict",
    "late",
    "die",
    "expire",
    "restart",
    "resume",
    "roll_back",
    "retry",
    "drop",
    "flush",
)


class Run:
    """A learner, workers that never forget an old claim, and a checkpoint of every update."""

    def __init__(self, redis) -> None:
        self.redis = redis
        self.limits = {
            "groups_per_update": 2, "max_staleness": 1, "total_groups": 1000, "max_attempts": 2, "max_losses": 2,
            "max_groups": 3, "max_payload_bytes": 400,
        }  # fmt: skip
        self.queue = Queue(redis, "run")
        self.queue.begin(Ledger(**self.limits))
        self.consumed = set()
        self.updates = 0
        self.held = []  # every claim ever made: (stage, claimed, ordinal, attempt)
        self.lost = set()  # stage and entry id of claims that were taken away
        self.lives = [0, 0]  # how often each worker was replaced
        self.results = 0
        self.published = set()
        self.checkpoints = []  # (updates, consumed) after every update

    def owner(self, pick):
        return f"worker-{pick % 2}/{self.lives[pick % 2]}"

    def claim(self, stage, pick):
        for claimed in self.queue.claim(stage, "learner" if stage == "scored" else self.owner(pick), 1 + pick % 3, 0):
            if stage == "tickets":
                ticket = decode(claimed.payload, Ticket)
                name = ticket.ordinal, ticket.attempt
            else:
                name = tuple(map(int, claimed.payload.split()[:2]))
            self.held.append((stage, claimed, *name))

    def newest(self, stage, pick):
        mine = [held for held in self.held if held[0] == stage]
        return mine[-1 - pick % min(len(mine), 4)] if mine else None

    def advance(self, stage, pick):
        self.claim(stage, pick)
        if held := self.newest(stage, pick):
            self.publish(*held)

    def publish(self, stage, claimed, ordinal, attempt):
        self.results += 1  # no two workers' results have the same bytes
        result = b"%d %d %d" % (ordinal, attempt, self.results)
        if self.queue.publish(stage, claimed, result, ordinal, attempt, 50 + self.results % 50):
            assert (stage, ordinal, attempt) not in self.published
            assert (stage, claimed.entry_id) not in self.lost, "a worker that lost its claim has published"
            self.published.add((stage, ordinal, attempt))

    def admit(self, pick):
        self.queue.admit(pick)

    def draw(self, pick):
        self.advance("tickets", pick)

    def score(self, pick):
        self.advance("groups", pick)

    def learn(self, pick):
        self.claim("scored", pick)
        mine = {held[2]: held for held in self.held if held[0] == "scored" and held[2] not in self.consumed}
        if len(mine) >= 2:
            batch = sorted(mine.values(), key=lambda held: held[2])[:2]
            with suppress(QueueError):  # one was evicted meanwhile: then none is consumed
                self.queue.finish_update(self.updates + 1, [held[1] for held in batch], [held[2] for held in batch])
                self.updates += 1
                for held in batch:
                    assert held[2] not in self.consumed
                    self.consumed.add(held[2])
                self.checkpoints.append((self.updates, frozenset(self.consumed)))
                return
            self.held = [held for held in self.held if held not in batch]

    def fail(self, pick):
        if self.held:
            stage, claimed, ordinal, _ = self.held[-1 - pick % min(len(self.held), 4)]
            self.queue.fail(stage, claimed, ordinal, "nan")

    def evict(self, pick):
        if self.held:
            stage, claimed, ordinal, _ = self.held[-1 - pick % min(len(self.held), 4)]
            self.queue.evict(claimed, ordinal, ("stale", "lineage")[pick % 2], stage)

    def late(self, pick):
        if self.held:
            held = self.held[pick % len(self.held)]
            if held[0] != "scored":
                self.publish(*held)

    def die(self, pick):
        """A worker's process is gone; what it held is known to be lost. It may still speak up, late."""
        self.forget_claims_of(self.owner(pick))
        self.queue.release(self.owner(pick))
        self.lives[pick % 2] += 1

    def expire(self, pick):
        """A worker did not renew for a lease, and does not know it."""
        owner = self.owner(pick)
        self.forget_claims_of(owner)
        for stage in ("tickets", "groups"):
            pending = self.redis.xpending_range(f"{{run}}:{stage}", stage, "-", "+", 100, owner)
            if pending:
                ids = [row["message_id"] for row in pending]
                self.redis.xclaim(f"{{run}}:{stage}", stage, owner, 0, ids, idle=3_600_000, justid=True)
        self.redis.hset("{run}:ledger", mapping={"swept_ms": self.now_ms(), "patient_until_ms": 0})
        self.queue.sweep(1800.0)

    def now_ms(self):
        seconds, micros = self.redis.time()
        return 1000 * seconds + micros // 1000

    def forget_claims_of(self, owner):
        self.lost |= {(stage, claimed.entry_id) for stage, claimed, *_ in self.held if claimed.owner == owner}

    def restart(self, pick):
        """Another process goes on for the controller, and takes the run over as it stands."""
        self.take_over(self.updates, self.consumed)

    def roll_back(self, pick):
        """The learner died; its last checkpoint may lie behind."""
        if self.checkpoints:
            del self.checkpoints[len(self.checkpoints) - min(pick % 3, len(self.checkpoints) - 1) :]
            self.take_over(*self.checkpoints[-1])

    def retry(self, pick):
        """Somebody looks at the dead letters."""
        letters = DeadLetters(self.redis, "run")
        tried = letters.retry([letter.ordinal for letter in letters.all()[: pick % 3]])
        self.published = {name for name in self.published if name[1] not in tried}

    def drop(self, pick):
        letters = DeadLetters(self.redis, "run")
        letters.drop([letter.ordinal for letter in letters.all()[: pick % 3]])

    def flush(self, pick):
        """The server lost its memory."""
        if pick % 4 == 0:
            self.redis.flushall()
            self.lost |= {(held[0], held[1].entry_id) for held in self.held}
            time.sleep(0.002)  # ids are milliseconds: a server that lost its memory is not back within one
            self.published = set()
            self.take_over(self.updates, self.consumed)

    def take_over(self, updates, consumed):
        self.updates, self.consumed = updates, set(consumed)
        self.published = {name for name in self.published if name[1] in self.running()}
        self.lost |= {(held[0], held[1].entry_id) for held in self.held}  # a new process commands
        self.held = [held for held in self.held if held[0] != "scored"]
        self.queue = Queue(self.redis, "run")
        self.queue.reconcile(self.ledger())

    def ledger(self):
        intervals = tuple((ordinal, ordinal + 1) for ordinal in sorted(self.consumed))
        frontier = max(self.consumed, default=-1) + 1
        return Ledger(**self.limits, updates_done=self.updates, consumed=intervals, frontier=frontier)

    def resume(self, pick):
        """Everybody died, and the run begins anew where the learner stood."""
        if pick % 4 == 0:
            self.published = set()
            self.queue.begin(self.ledger())

    def settle(self):
        """After everybody restarted, the run goes on: no place was lost."""
        self.held = []
        for worker in (0, 1):
            self.die(worker)
        self.restart(0)
        self.admit(0)
        for stage in ("tickets", "groups"):
            for worker in range(2 * 5):  # until both have nothing of their own and nothing waits
                self.claim(stage, worker)
            for held in [held for held in self.held if held[0] == stage]:
                self.publish(*held)
        for worker in range(2 * 5):
            self.claim("scored", worker)
        self.learn(0)

    def running(self):
        return {int(ordinal) for ordinal in self.redis.hkeys("{run}:running")}

    def check(self):
        statistics = self.queue.statistics()
        assert accounting_holds(statistics), statistics
        assert statistics.consumed == len(self.consumed)
        assert statistics.updates_done == self.updates
        assert statistics.consumed + statistics.in_flight <= (1 + self.updates + 1) * 2
        running = self.running()
        sizes = self.redis.hgetall("{run}:bytes")
        assert {int(ordinal) for ordinal in sizes} <= running
        assert statistics.payload_bytes == sum(map(int, sizes.values())) <= 400
        assert len(running) <= 3
        holes = {int(ordinal) for ordinal in self.redis.zrange("{run}:holes", 0, -1)}
        assert not (running | holes) & self.consumed
        remembered = [key for name in ("attempts", "failures", "losses") for key in self.redis.hkeys(f"{{run}}:{name}")]
        assert {int(ordinal) for ordinal in remembered} <= running | holes  # no key grows with the run
        assert statistics.frontier == len(self.consumed) + len(running) + statistics.holes + statistics.dead


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), min_size=10, max_size=60))
def test_every_attempt_has_one_fate_and_no_ordinal_is_consumed_twice(redis, steps) -> None:
    run = Run(redis)
    for name, pick in steps:
        getattr(run, name)(pick)
        run.check()
    before = run.updates
    run.settle()
    run.check()
    assert run.updates > before
