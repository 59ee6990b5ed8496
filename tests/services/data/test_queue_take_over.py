"""Who commands the run, and what a checkpoint and a server with more, less or no memory make of it together."""

from contextlib import closing

import pytest

from services.data.queue import Ledger, Queue, accounting_holds
from services.data.server import connect
from services.data.wire import Ticket, decode
from services.errors import QueueError, RunMissing, ServerUnavailable, Superseded

LIMITS = {"groups_per_update": 2, "max_staleness": 1, "total_groups": 100}


def ordinal_of(entry):
    return int(entry.payload) if entry.payload.isdigit() else decode(entry.payload, Ticket).ordinal


def move(queue, stage, count):
    """Carry `count` entries out of a stage; what they are."""
    moved = queue.claim(stage, "worker/a", count, 0)
    for entry in moved:
        assert queue.publish(stage, entry, b"%d" % ordinal_of(entry), ordinal_of(entry), 0)
    return [ordinal_of(entry) for entry in moved]


def advance(queue, updates):
    """Admit, draw, score and consume so many updates; the claims of the learner that are left over."""
    held = []
    for update in range(updates):
        queue.admit(0)
        move(queue, "tickets", 100)
        move(queue, "groups", 100)
        held += queue.claim("scored", "learner", 100, 0)
        batch, held = held[:2], held[2:]
        queue.finish_update(update + 1, batch, [ordinal_of(entry) for entry in batch])
    return held


def holes(redis):
    return [int(ordinal) for ordinal in redis.zrange("{run}:holes", 0, -1)]


def running(redis):
    return sorted(int(ordinal) for ordinal in redis.hkeys("{run}:running"))


def test_every_take_over_raises_the_epoch_and_begin_does_not_reset_it(redis) -> None:
    queues = [Queue(redis, "run") for _ in range(3)]
    assert [queue.begin(Ledger(**LIMITS)) for queue in queues[:2]] == [1, 2]
    assert queues[2].epoch is None
    assert queues[2].reconcile(Ledger(**LIMITS)) == 3
    assert queues[2].begin(Ledger(**LIMITS)) == queues[2].epoch == 4


def test_whoever_commanded_before_is_refused_and_changes_nothing(redis) -> None:
    old, new = Queue(redis, "run"), Queue(redis, "run")
    old.begin(Ledger(**LIMITS))
    old.admit(0)
    for stage in ("tickets", "groups"):
        move(old, stage, 2)
    held = old.claim("scored", "learner", 2, 0)
    redis.set("{run}:blob:1", b"of the new one")
    new.reconcile(Ledger(**LIMITS))
    before = new.statistics()
    calls = (
        lambda: old.admit(0),
        lambda: old.finish_update(1, held, [0, 1]),
        lambda: old.evict(held[0], 0, "stale"),
        lambda: old.release("worker"),
        lambda: old.sweep(1.0),
        lambda: old.reconcile(Ledger(**LIMITS)),
        lambda: old.begin(Ledger(**LIMITS)),
    )
    for call in calls:
        with pytest.raises(Superseded, match="expected 2, found 1"):
            call()
    after = new.statistics()
    assert (after.in_flight, after.consumed, after.evicted) == (before.in_flight, before.consumed, before.evicted)
    assert redis.exists("{run}:blob:1")


def test_what_a_worker_holds_outlives_the_learner_but_not_the_controller(redis) -> None:
    controller, worker = Queue(redis, "run"), Queue(redis, "run")
    controller.begin(Ledger(**LIMITS))
    controller.admit(0)
    first, second = worker.claim("tickets", "rollout-0/a", 2, 0)
    controller.reconcile(Ledger(**LIMITS))
    assert worker.publish("tickets", first, b"0", 0, 0)
    Queue(redis, "run").reconcile(Ledger(**LIMITS))
    assert not worker.publish("tickets", second, b"1", 1, 0)
    assert [ordinal_of(entry) for entry in worker.claim("tickets", "rollout-0/b", 9, 0)] == [2, 3, 1]


def test_the_former_learners_claims_come_again_and_are_its_own_no_more(redis) -> None:
    old, new = Queue(redis, "run"), Queue(redis, "run")
    old.begin(Ledger(**LIMITS))
    advance(old, 1)
    new.reconcile(Ledger(**LIMITS, updates_done=1, consumed=((0, 2),), frontier=2))
    again = new.claim("scored", "learner", 9, 0)
    assert sorted(map(ordinal_of, again)) == [2, 3]
    new.finish_update(2, again, [ordinal_of(entry) for entry in again])
    assert accounting_holds(new.statistics())


def test_what_was_consumed_after_the_checkpoint_is_drawn_again_and_what_is_in_flight_goes_on(redis) -> None:
    old, new = Queue(redis, "run"), Queue(redis, "run")
    old.begin(Ledger(**LIMITS))
    advance(old, 3)
    old.admit(0)
    new.reconcile(Ledger(**LIMITS, updates_done=1, consumed=((0, 2),), frontier=2))
    assert holes(redis) == [2, 3, 4, 5]
    assert running(redis) == [6, 7, 8, 9]
    statistics = new.statistics()
    assert (statistics.consumed, statistics.updates_done, statistics.frontier) == (2, 1, 10)
    assert statistics.evictions == {"rolled back": 4}
    assert accounting_holds(statistics)
    assert new.admit(0) == 0, "the places of the groups in flight are taken"


def test_a_server_that_came_back_with_an_older_memory_does_nothing_twice(redis) -> None:
    """As after a restart from a file that lacks the last seconds: the checkpoint knows more."""
    old, new = Queue(redis, "run"), Queue(redis, "run")
    old.begin(Ledger(**LIMITS))
    advance(old, 1)  # consumed 0, 1; in flight 2, 3
    new.reconcile(Ledger(**LIMITS, updates_done=4, consumed=((0, 3), (4, 9)), frontier=9))
    assert running(redis) == [3]
    assert holes(redis) == []
    assert accounting_holds(new.statistics())
    assert new.statistics().consumed == 8
    assert new.admit(0) == 3
    assert running(redis) == [3, 9, 10, 11]


@pytest.mark.parametrize("manner", ["begin", "reconcile"])
def test_a_server_without_memory_starts_from_the_checkpoint(redis, manner) -> None:
    queue = Queue(redis, "run")
    queue.begin(Ledger(**LIMITS))
    advance(queue, 2)
    redis.flushall()
    with pytest.raises(RunMissing):
        queue.claim("tickets", "rollout-0/a", 1, 0)
    with pytest.raises(RunMissing):
        queue.admit(0)
    before = queue.epoch
    ledger = Ledger(**LIMITS, updates_done=2, consumed=((0, 3), (5, 6)), frontier=6)
    assert (queue.begin if manner == "begin" else queue.reconcile)(ledger) == before + 1
    assert holes(redis) == [3, 4]
    statistics = queue.statistics()
    assert (statistics.dispatched, statistics.consumed, statistics.in_flight) == (4, 4, 0)
    assert queue.admit(0) == 4
    assert running(redis) == [3, 4, 6, 7]


def test_a_commander_whom_the_server_does_not_remember_reconciles_and_is_no_rival_of_itself(redis) -> None:
    queue = Queue(redis, "run")
    queue.begin(Ledger(**LIMITS))
    queue.reconcile(Ledger(**LIMITS))
    redis.set("{run}:epoch", 1)  # as from a file that lacks the last seconds
    with pytest.raises(RunMissing, match="does not know of the take-over of epoch 2"):
        queue.admit(0)
    assert queue.reconcile(Ledger(**LIMITS)) == 3
    assert queue.admit(0) == 4


def test_an_update_on_groups_that_the_server_has_forgotten_is_settled_by_reconciling(redis) -> None:
    queue = Queue(redis, "run")
    queue.begin(Ledger(**LIMITS))
    held = advance(queue, 1)
    with pytest.raises(RunMissing, match="expected 2, found 3"):
        queue.finish_update(3, held, [ordinal_of(entry) for entry in held])
    redis.xack("{run}:scored", "scored", held[0].entry_id)  # the claim was forgotten
    with pytest.raises(RunMissing, match="is gone"):
        queue.finish_update(2, held, [ordinal_of(entry) for entry in held])
    queue.reconcile(Ledger(**LIMITS, updates_done=2, consumed=((0, 4),), frontier=4))
    assert queue.statistics().in_flight == 0
    assert accounting_holds(queue.statistics())


def test_a_dead_letter_stays_dead_over_a_reconcile(redis) -> None:
    queue = Queue(redis, "run")
    queue.begin(Ledger(**LIMITS, max_attempts=1))
    queue.admit(0)
    first = queue.claim("tickets", "rollout-0/a", 1, 0)[0]
    assert queue.fail("tickets", first, 0, "nan") == "dead"
    queue.reconcile(Ledger(**LIMITS, max_attempts=1))
    assert holes(redis) == []
    assert queue.statistics().dead == 1
    assert accounting_holds(queue.statistics())


def test_a_new_commander_forgets_the_sign_to_stop_and_the_same_one_keeps_it(redis) -> None:
    queue = Queue(redis, "run")
    queue.begin(Ledger(**LIMITS))
    queue.request_stop("drain")
    queue.reconcile(Ledger(**LIMITS))
    assert queue.stop_requested() == "drain"
    Queue(redis, "run").reconcile(Ledger(**LIMITS))
    assert queue.stop_requested() is None


def test_a_take_over_whose_answer_was_lost_is_not_its_own_rival(redis, monkeypatch) -> None:
    queue = Queue(redis, "run")
    queue.begin(Ledger(**LIMITS))
    send = queue._scripts.call

    def answer_lost(*arguments):
        send(*arguments)
        raise ServerUnavailable("the answer was lost")

    monkeypatch.setattr(queue._scripts, "call", answer_lost)
    with pytest.raises(ServerUnavailable):
        queue.reconcile(Ledger(**LIMITS))
    monkeypatch.setattr(queue._scripts, "call", send)
    assert queue.reconcile(Ledger(**LIMITS)) == 2
    assert queue.reconcile(Ledger(**LIMITS)) == 3


def test_a_waiting_claim_learns_that_the_server_lost_its_memory(server, redis, queue) -> None:
    import threading

    found = []

    def wait() -> None:
        with connect(server.url) as own, closing(Queue(own, "run")) as waiting_queue:
            try:
                waiting_queue.claim("tickets", "rollout-0/a", 1, 5_000)
            except QueueError as error:
                found.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not [client for client in redis.client_list() if "b" in client["flags"]]:
        assert waiting.is_alive()
    redis.flushall()
    waiting.join(timeout=6)
    assert [type(error) for error in found] == [RunMissing]
