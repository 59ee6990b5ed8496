"""A whole run on the data layer alone: real queue, blobs, leases and checkpoints, with threads for workers and nothing
to compute. What a learner would train on is written down, so that a test can see that nothing was trained twice.
"""

import threading
import time
from contextlib import ExitStack, contextmanager

from msgspec.structs import replace

from services.data.blobs import build_blobs
from services.data.lease import Heartbeat, Sweeping
from services.data.queue import Ledger, Queue, new_owner
from services.data.server import impatient
from services.data.wire import GroupEntry, ScoredEntry, Ticket, decode, encode
from services.errors import BlobMissing, RunMissing, ServerUnavailable

from .entries import group_entry

GROUPS_PER_UPDATE = 3
CHECKPOINT_EVERY = 2
LEASE_S = 2.0
PAUSE_S = 0.02
PATIENCE_S = 60.0
RUN = "run"


class SmallFleet:
    """redis: its own client for every thread comes from it. The learner's memory is `trained`, its disk `saved`."""

    def __init__(self, redis, updates, max_staleness=1):
        self.redis = impatient(redis, 2.0)
        self.updates = updates
        self.max_staleness = max_staleness
        self.blobs = build_blobs("redis://", self.redis, RUN)
        self.queue = Queue(self.redis, RUN)
        self.trained = []  # one list of ordinals for every update of the surviving lineage
        self.saved = 0  # updates in the newest checkpoint
        self.recoveries = 0
        self.stop = threading.Event()
        self.errors = []

    def ledger(self):
        consumed = sorted(ordinal for batch in self.trained for ordinal in batch)
        return Ledger(
            groups_per_update=GROUPS_PER_UPDATE,
            max_staleness=self.max_staleness,
            total_groups=self.updates * GROUPS_PER_UPDATE,
            updates_done=len(self.trained),
            consumed=tuple((ordinal, ordinal + 1) for ordinal in consumed),
            frontier=max(consumed, default=-1) + 1,
        )

    def work(self, role):
        """One worker's thread, under a new name whenever it has been killed."""
        serve, stage = {"rollout": (self.draw, "tickets"), "reward": (self.score, "groups")}[role]
        queue, owner = Queue(self.redis, RUN), new_owner(f"{role}-0")
        try:
            with Heartbeat(Queue(self.redis, RUN), owner, LEASE_S):
                while not self.stop.is_set():
                    try:
                        for claimed in queue.claim(stage, owner, 1, 50):
                            serve(queue, claimed)
                    except (ServerUnavailable, RunMissing):
                        queue.recall(owner)
                        self.stop.wait(PAUSE_S)
        except Exception as error:
            self.errors.append(error)
        finally:
            queue.close()

    def draw(self, queue, claimed):
        ticket = decode(claimed.payload, Ticket)
        name = f"{ticket.ordinal}/{ticket.attempt}"
        latents = self.blobs.put([f"{name}/latents"], [b"latents of %d" % ticket.ordinal])
        images = self.blobs.put([f"{name}/images"], [b"images of %d" % ticket.ordinal])
        entry = replace(group_entry(ticket.ordinal, ticket.attempt), latents=latents, images=images)
        if not queue.publish("tickets", claimed, encode(entry), ticket.ordinal, ticket.attempt, entry.payload_bytes):
            self.blobs.delete((*latents, *images))

    def score(self, queue, claimed):
        group = decode(claimed.payload, GroupEntry)
        try:
            [images] = self.blobs.get(group.images)
        except BlobMissing:
            queue.evict(claimed, group.ordinal, "blob missing", "groups")
            return
        assert images == b"images of %d" % group.ordinal
        scored = ScoredEntry(group=group, rewards=(), producer="reward-0", scored_ms=0, timings={})
        queue.publish("groups", claimed, encode(scored), group.ordinal, group.attempt, scored.payload_bytes)
        self.blobs.delete(group.images)

    @contextmanager
    def workers(self):
        threads = [threading.Thread(target=self.work, args=[role]) for role in ("rollout", "reward") * 2]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
        assert self.errors == []

    def run(self, disturb=lambda update: None, learner_dies_at=()):
        """Train all updates. disturb(update) is called before every update with groups in flight; before those of
        learner_dies_at the learner falls back to its checkpoint.
        """
        dying = set(learner_dies_at)
        with ExitStack() as stack:
            self.queue.begin(self.ledger())
            stack.enter_context(self.workers())
            stack.enter_context(Sweeping(self.queue, LEASE_S))
            while len(self.trained) < self.updates:
                update = len(self.trained)
                disturb(update)
                if update in dying:
                    dying.discard(update)
                    del self.trained[self.saved :]
                    self.recover()
                self.once()

    def close(self):
        """Close every connection."""
        self.queue.close()
        self.redis.close()

    def once(self):
        """One update, or a recovery."""
        try:
            batch = self.collect()
        except RunMissing:
            self.recover()
            return
        if batch is None:
            return
        self.trained.append([ordinal for _, ordinal in batch])
        if len(self.trained) % CHECKPOINT_EVERY == 0:
            self.saved = len(self.trained)
        while True:
            try:
                self.queue.finish_update(len(self.trained), [held for held, _ in batch], self.trained[-1])
                return
            except ServerUnavailable:
                self.stop.wait(PAUSE_S)
            except RunMissing:
                self.recover()  # what was trained a moment ago is in the ledger
                return

    def collect(self):
        """The groups of an update, lowest ordinals first; those whose latents are lost are given back."""
        waiting = []
        deadline = time.monotonic() + PATIENCE_S
        while len(waiting) < GROUPS_PER_UPDATE:
            assert self.errors == []
            assert time.monotonic() < deadline, self.queue.statistics()
            try:
                self.queue.admit(0)
                for held in self.queue.claim("scored", "learner", GROUPS_PER_UPDATE - len(waiting), 50):
                    group = decode(held.payload, ScoredEntry).group
                    try:
                        assert self.blobs.get(group.latents) == [b"latents of %d" % group.ordinal]
                        waiting.append((held, group.ordinal))
                    except BlobMissing:
                        self.queue.evict(held, group.ordinal, "blob missing")
            except ServerUnavailable:
                self.stop.wait(PAUSE_S)
        return sorted(waiting, key=lambda held: held[1])

    def recover(self):
        while True:
            try:
                self.queue.reconcile(self.ledger())
                self.recoveries += 1
                return
            except ServerUnavailable:
                self.stop.wait(PAUSE_S)
