"""Claims belong to who renews them; whoever lost one can do nothing with it any more."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from copy import copy

import pytest

from services.data.lease import Beat, Heartbeat, Sweeping
from services.data.queue import Ledger, Lost, Queue, accounting_holds, new_owner
from services.data.server import EmbeddedServer, connect
from services.data.wire import Ticket, decode
from services.errors import QueueError, ServerUnavailable, Superseded

LEASE_S = 1.0
LIMITS = {"groups_per_update": 2, "max_staleness": 1, "total_groups": 100}


def claim(queue, owner, stage="tickets", count=1):
    [*claimed] = queue.claim(stage, owner, count, 0)
    return claimed


def wait_until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.01)
    return found


def sweep_until_lost(queue):
    return wait_until(lambda: queue.sweep(LEASE_S))


def test_an_owner_is_never_named_twice() -> None:
    names = {new_owner("rollout-3") for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("rollout-3/") for name in names)


def test_what_nobody_renews_goes_to_the_next_worker_in_the_same_attempt(queue) -> None:
    queue.admit(0)
    [lost] = claim(queue, "rollout-0/a")
    assert sweep_until_lost(queue) == (Lost(stage="tickets", ordinal=0, owner="rollout-0/a", fate="again"),)
    again = claim(queue, "rollout-1/b", count=9)
    tickets = [decode(entry.payload, Ticket) for entry in again]
    assert [(ticket.ordinal, ticket.attempt) for ticket in tickets] == [(1, 0), (2, 0), (3, 0), (0, 0)]
    assert again[-1].entry_id != lost.entry_id
    statistics = queue.statistics()
    assert statistics.lost == {"tickets": 1, "groups": 0, "scored": 0}
    assert accounting_holds(statistics)


def test_a_worker_that_lost_its_lease_can_neither_publish_nor_fail_nor_evict(queue) -> None:
    queue.admit(0)
    [lost] = claim(queue, "rollout-0/a")
    sweep_until_lost(queue)
    assert not queue.publish("tickets", lost, b"late", 0, 0)
    assert queue.fail("tickets", lost, 0, "late") == "gone"
    assert queue.evict(lost, 0, "late", "tickets") == "gone"
    again = claim(queue, "rollout-1/b", count=9)[-1]
    assert not queue.publish("tickets", lost, b"late again", 0, 0)
    assert queue.publish("tickets", again, b"in time", 0, 0)
    assert [entry.payload for entry in claim(queue, "reward-0/c", "groups", 9)] == [b"in time"]


def test_a_claim_of_the_right_entry_by_another_owner_is_none(queue) -> None:
    from dataclasses import replace

    queue.admit(0)
    [held] = claim(queue, "rollout-0/a")
    stolen = replace(held, owner="rollout-0/b")
    assert not queue.publish("tickets", stolen, b"stolen", 0, 0)
    assert queue.publish("tickets", held, b"mine", 0, 0)


def test_one_call_renews_everything_an_owner_holds_and_nothing_else(queue, redis) -> None:
    queue.admit(0)
    [ticket] = claim(queue, "both/a")
    other = claim(queue, "other/a", count=2)
    assert queue.publish("tickets", other[0], b"1", 1, 0)
    [group] = claim(queue, "both/a", "groups")
    time.sleep(0.1)
    assert queue.renew("both/a") == {ticket.entry_id, group.entry_id}
    rows = redis.xpending_range("{run}:tickets", "tickets", "-", "+", 9)
    idle = {row["consumer"]: row["time_since_delivered"] for row in rows}
    assert idle[b"other/a"] >= idle[b"both/a"] + 100
    assert queue.renew("nobody/x") == frozenset()


def test_a_heartbeat_keeps_a_claim_for_as_long_as_it_beats(queue, redis) -> None:
    queue.admit(0)
    [held] = claim(queue, "rollout-0/a")
    with Sweeping(queue, LEASE_S) as janitor:
        with Heartbeat(Queue(redis, "run"), "rollout-0/a", LEASE_S):
            time.sleep(2.5 * LEASE_S)
            assert janitor.take() == ()
            assert queue.renew("rollout-0/a") == {held.entry_id}
        [lost] = wait_until(janitor.take)
    assert lost.owner == "rollout-0/a"


class Overtaken:
    """A controller as its janitor sees it whose first sweep comes to the server behind its own take-over."""

    def __init__(self, controller: Queue) -> None:
        self._before = copy(controller)
        self._now = controller
        self.sweeps = 0
        controller.reconcile(Ledger(**LIMITS))

    @property
    def epoch(self):
        return (self._now if self.sweeps else self._before).epoch

    def sweep(self, lease_s):
        self.sweeps += 1
        return (self._before if self.sweeps == 1 else self._now).sweep(lease_s)


def test_a_janitor_survives_its_own_controllers_take_over_and_no_other(queue, redis) -> None:
    overtaken = Overtaken(queue)
    with Sweeping(overtaken, LEASE_S) as janitor:
        wait_until(lambda: overtaken.sweeps >= 3)
        assert janitor.take() == ()
    Queue(redis, "run").reconcile(Ledger(**LIMITS))
    with pytest.raises(Superseded), Sweeping(queue, LEASE_S) as janitor:
        wait_until(janitor.take)


def test_a_worker_known_to_be_gone_gives_everything_back_at_once(queue, redis) -> None:
    queue.admit(0)
    first, _ = claim(queue, "rollout-1/a", count=2)
    claim(queue, "rollout-1/b")
    claim(queue, "rollout-10/a")
    assert queue.publish("tickets", first, b"0", 0, 0)
    [group] = claim(queue, "rollout-1/a", "groups")
    assert [lost.ordinal for lost in queue.release("rollout-1/a")] == [1, 0]
    assert not queue.publish("groups", group, b"late", 0, 0)
    assert [lost.ordinal for lost in queue.release("rollout-1", "node removed")] == [2]
    assert queue.release("rollout-1") == ()
    assert {row["name"] for row in redis.xinfo_consumers("{run}:tickets", "tickets")} == {b"rollout-10/a"}
    assert queue.statistics().stages["tickets"].ready == 2
    assert accounting_holds(queue.statistics())


def test_a_group_over_which_worker_after_worker_is_lost_is_buried_and_the_run_goes_on(redis) -> None:
    queue = Queue(redis, "run")
    queue.begin(Ledger(groups_per_update=1, max_staleness=0, total_groups=8, max_losses=2))
    queue.admit(0)
    fates = []
    for life in range(3):
        claim(queue, f"rollout-0/{life}")
        fates += [lost.fate for lost in queue.release("rollout-0")]
    assert fates == ["again", "again", "dead"]
    [(_, letter)] = redis.xrange("{run}:dead")
    assert (letter[b"stage"], letter[b"reason"]) == (b"tickets", b"worker lost")
    assert letter[b"error"] == b"lost with 3 workers, the last one rollout-0/2"
    assert queue.admit(0) == 1
    [ticket] = claim(queue, "rollout-0/9")
    assert decode(ticket.payload, Ticket).ordinal == 1
    assert accounting_holds(queue.statistics())


def test_losses_that_a_consumed_group_cost_are_forgotten(redis) -> None:
    queue = Queue(redis, "run")
    queue.begin(Ledger(groups_per_update=1, max_staleness=0, total_groups=8))
    queue.admit(0)
    claim(queue, "rollout-0/a")
    queue.release("rollout-0")
    assert redis.hgetall("{run}:losses") == {b"0": b"1"}
    for stage in ("tickets", "groups"):
        [held] = claim(queue, "worker/a", stage)
        queue.publish(stage, held, b"0", 0, 0)
    queue.finish_update(1, claim(queue, "learner", "scored"), [0])
    assert redis.hgetall("{run}:losses") == {}


def test_the_janitor_leaves_the_learners_claims_alone(queue) -> None:
    queue.admit(0)
    for stage in ("tickets", "groups"):
        for held, ordinal in zip(claim(queue, "worker/a", stage, 4), range(4), strict=True):
            queue.publish(stage, held, b"%d" % ordinal, ordinal, 0)
    held = claim(queue, "learner", "scored", 2)
    deadline = time.monotonic() + 2.5 * LEASE_S
    while time.monotonic() < deadline:
        assert queue.sweep(LEASE_S) == ()
        time.sleep(LEASE_S / 10)
    queue.finish_update(1, held, [0, 1])


@pytest.mark.integration
def test_a_server_that_stood_still_is_no_workers_death() -> None:
    """Paused for many leases: whoever renews at once afterwards keeps its claim, even if the janitor asks first."""
    with EmbeddedServer() as server, connect(server.url) as redis, closing(Queue(redis, "run")) as queue:
        queue.begin(Ledger(groups_per_update=2, max_staleness=0, total_groups=8))
        queue.admit(0)
        alive, gone = claim(queue, "alive/a"), claim(queue, "gone/a")
        deadline = time.monotonic() + 1.5 * LEASE_S
        while time.monotonic() < deadline:
            queue.renew("alive/a")
            queue.renew("gone/a")
            assert queue.sweep(LEASE_S) == ()
            time.sleep(LEASE_S / 10)
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(2 * LEASE_S)
        os.kill(server.pid, signal.SIGCONT)
        assert queue.sweep(LEASE_S) == ()
        with connect(server.url) as own, Heartbeat(Queue(own, "run"), "alive/a", LEASE_S):
            assert [lost.owner for lost in sweep_until_lost(queue)] == ["gone/a"]
        assert queue.publish("tickets", alive[0], b"0", 0, 0)
        assert not queue.publish("tickets", gone[0], b"1", 1, 0)


WORKER = """
import sys, time
from services.data.lease import Heartbeat
from services.data.queue import Queue
from services.data.server import connect
url, owner, lease_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
queue = Queue(connect(url), "run")
with Heartbeat(Queue(connect(url), "run"), owner, lease_s):
    [held] = queue.claim("tickets", owner, 1, 0)
    print("claimed", flush=True)
    sys.stdin.readline()
    print(queue.publish("tickets", held, b"0", 0, 0), flush=True)
"""


def start_worker(url, owner):
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, url, owner, str(LEASE_S)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stdout.readline() == "claimed\n"
    return worker


@pytest.mark.integration
def test_a_worker_that_was_killed_loses_its_claim_and_nothing_else(server, queue) -> None:
    queue.admit(0)
    with start_worker(server.url, "rollout-0/a") as worker, Sweeping(queue, LEASE_S) as janitor:
        time.sleep(2 * LEASE_S)
        assert janitor.take() == ()
        worker.kill()
        assert [lost.owner for lost in wait_until(janitor.take)] == ["rollout-0/a"]
    assert len(claim(queue, "rollout-1/b", count=9)) == 4


@pytest.mark.integration
def test_a_worker_that_was_stopped_and_goes_on_has_lost_its_claim(server, queue) -> None:
    queue.admit(0)
    with start_worker(server.url, "rollout-0/a") as worker, Sweeping(queue, LEASE_S) as janitor:
        worker.send_signal(signal.SIGSTOP)
        assert [lost.ordinal for lost in wait_until(janitor.take)] == [0]
        worker.send_signal(signal.SIGCONT)
        assert worker.communicate("publish\n")[0] == "False\n"
    assert queue.statistics().duplicates == 1
    assert accounting_holds(queue.statistics())


def test_a_beat_waits_out_an_absent_server_and_hands_over_any_other_error() -> None:
    calls = []

    def step() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise ServerUnavailable("away")
        raise QueueError("the script is wrong")

    with pytest.raises(QueueError, match="the script is wrong"), Beat(step, 0.001, "test"):
        wait_until(lambda: len(calls) == 3)
        time.sleep(0.02)
    assert len(calls) == 3
