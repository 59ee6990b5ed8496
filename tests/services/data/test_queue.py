from contextlib import contextmanager

import pytest

from services.data.queue import Claimed, Ledger, Queue, accounting_holds
from services.data.server import connect
from services.data.wire import Ticket, decode
from services.errors import QueueError, RunMissing, ServerFull

NOW_MS = 1_760_000_000_123


def begun(redis, **limits):
    queue = Queue(redis, "run")
    queue.begin(Ledger(**{"groups_per_update": 2, "max_staleness": 0, "total_groups": 100} | limits))
    return queue


def tickets(queue, count=100, consumer="rollout-0"):
    """Claimed tickets with what they say: [(claimed, ordinal, attempt)]."""
    claimed = queue.claim("tickets", consumer, count, 0)
    read = [(entry, decode(entry.payload, Ticket)) for entry in claimed]
    return [(entry, ticket.ordinal, ticket.attempt) for entry, ticket in read]


def names(claimed):
    return [(ordinal, attempt) for _, ordinal, attempt in claimed]


def to_scored(queue):
    """Carry whatever waits through all stages: {ordinal: its claimed scored entry}."""
    for entry, ordinal, attempt in tickets(queue):
        assert queue.publish("tickets", entry, b"%d %d" % (ordinal, attempt), ordinal, attempt)
    for entry in queue.claim("groups", "reward-0", 100, 0):
        assert queue.publish("groups", entry, entry.payload, *map(int, entry.payload.split()))
    return {int(entry.payload.split()[0]): entry for entry in queue.claim("scored", "learner", 100, 0)}


def finish(queue, update, scored):
    queue.finish_update(update, list(scored.values()), list(scored))


def test_a_ticket_names_its_ordinal_its_attempt_and_when_it_was_written(queue) -> None:
    assert queue.admit(NOW_MS) == 4
    payloads = [entry.payload for entry in queue.claim("tickets", "rollout-0", 100, 0)]
    assert [decode(payload, Ticket) for payload in payloads] == [
        Ticket(ordinal=ordinal, attempt=0, created_ms=NOW_MS) for ordinal in range(4)
    ]


@pytest.mark.parametrize(("max_staleness", "ahead"), [(0, 2), (2, 6)])
def test_rollouts_run_ahead_of_the_learner_by_exactly_the_bound(redis, max_staleness, ahead) -> None:
    queue = begun(redis, max_staleness=max_staleness)
    assert [queue.admit(NOW_MS), queue.admit(NOW_MS)] == [ahead, 0]
    scored = to_scored(queue)
    assert sorted(scored) == list(range(ahead))
    assert queue.admit(NOW_MS) == 0
    finish(queue, 1, {ordinal: scored[ordinal] for ordinal in (0, 1)})
    assert [queue.admit(NOW_MS), queue.admit(NOW_MS)] == [2, 0]
    assert names(tickets(queue)) == [(ahead, 0), (ahead + 1, 0)]


def test_no_more_groups_are_dispatched_than_the_run_consumes(redis) -> None:
    queue = begun(redis, total_groups=3)
    assert queue.admit(NOW_MS) == 2
    finish(queue, 1, to_scored(queue))
    assert queue.admit(NOW_MS) == 1
    finish(queue, 2, to_scored(queue))
    assert queue.admit(NOW_MS) == 0
    assert queue.statistics().consumed == 3


def test_a_run_goes_on_from_its_ledger_and_fills_the_holes_first(redis) -> None:
    queue = begun(redis, updates_done=2, consumed=((0, 3), (5, 6)), frontier=8)
    queue.admit(NOW_MS)
    assert names(tickets(queue)) == [(3, 0), (4, 0)]
    finish(queue, 3, {})
    queue.admit(NOW_MS)
    assert names(tickets(queue)) == [(6, 0), (7, 0)]
    finish(queue, 4, {})
    queue.admit(NOW_MS)
    assert names(tickets(queue)) == [(8, 0), (9, 0)]


def test_a_group_given_back_is_drawn_again_before_any_new_one(queue) -> None:
    queue.admit(NOW_MS)
    first, second, *_ = tickets(queue)
    assert queue.fail("tickets", second[0], second[1], "nan") == "failed"
    assert queue.evict(first[0], first[1], "worker lost", stage="tickets") == "evicted"
    assert queue.admit(NOW_MS) == 2
    assert names(tickets(queue)) == [(0, 1), (1, 1)]
    assert accounting_holds(queue.statistics())


def test_a_group_that_fails_too_often_becomes_a_dead_letter_and_gives_its_place_to_the_next(redis) -> None:
    queue = begun(redis, max_attempts=3)
    fates = []
    for attempt in range(3):
        queue.admit(NOW_MS)
        [poisoned] = [ticket for ticket in tickets(queue) if ticket[1] == 0]
        assert poisoned[2] == attempt
        fates.append(queue.fail("tickets", poisoned[0], 0, "decode", f"error {attempt}"))
    assert fates == ["failed", "failed", "dead"]
    queue.admit(NOW_MS)
    assert names(tickets(queue)) == [(2, 0)]
    [(_, letter)] = redis.xrange("{run}:dead")
    assert decode(letter.pop(b"payload"), Ticket).ordinal == 0
    assert letter == {
        b"ordinal": b"0", b"attempt": b"2", b"stage": b"tickets", b"reason": b"decode", b"error": b"error 2"
    }  # fmt: skip
    statistics = queue.statistics()
    assert (statistics.failed, statistics.dead, statistics.in_flight) == (2, 1, 2)
    assert statistics.failures == {"tickets": 3, "groups": 0, "scored": 0}
    assert accounting_holds(statistics)


def test_evictions_are_counted_by_reason_and_never_kill_a_group(redis) -> None:
    queue = begun(redis, groups_per_update=1, max_attempts=1)
    for reason in ("lineage", "stale", "lineage"):
        queue.admit(NOW_MS)
        assert queue.evict(to_scored(queue)[0], 0, reason) == "evicted"
    statistics = queue.statistics()
    assert statistics.evictions == {"lineage": 2, "stale": 1}
    assert (statistics.evicted, statistics.dead, statistics.holes) == (3, 0, 1)


def test_a_result_moves_its_group_to_the_next_stage_in_one_step(queue) -> None:
    queue.admit(NOW_MS)
    entry, ordinal, attempt = tickets(queue, count=1)[0]
    assert queue.publish("tickets", entry, b"result", ordinal, attempt)
    stages = queue.statistics().stages
    assert (stages["tickets"].entries, stages["tickets"].pending) == (3, 0)
    assert (stages["groups"].entries, stages["groups"].ready) == (1, 1)
    assert [moved.payload for moved in queue.claim("groups", "reward-0", 5, 0)] == [b"result"]


def test_the_second_result_of_an_attempt_is_a_duplicate(queue) -> None:
    queue.admit(NOW_MS)
    entry, ordinal, attempt = tickets(queue)[0]
    assert queue.publish("tickets", entry, b"one worker's", ordinal, attempt)
    assert not queue.publish("tickets", entry, b"another's", ordinal, attempt)
    assert [moved.payload for moved in queue.claim("groups", "reward-0", 5, 0)] == [b"one worker's"]
    assert queue.statistics().duplicates == 1


def test_the_same_result_sent_again_after_a_lost_answer_is_no_duplicate(queue) -> None:
    queue.admit(NOW_MS)
    entry, ordinal, attempt = tickets(queue)[0]
    assert queue.publish("tickets", entry, b"result", ordinal, attempt)
    assert queue.publish("tickets", entry, b"result", ordinal, attempt)
    assert queue.statistics().stages["groups"].entries == 1
    assert queue.statistics().duplicates == 0


def test_a_result_that_comes_after_its_group_was_given_back_is_a_duplicate(queue) -> None:
    queue.admit(NOW_MS)
    entry, ordinal, attempt = tickets(queue)[0]
    queue.evict(entry, ordinal, "worker lost", stage="tickets")
    queue.admit(NOW_MS)
    assert not queue.publish("tickets", entry, b"late", ordinal, attempt)
    assert queue.fail("tickets", entry, ordinal, "late") == "gone"
    assert accounting_holds(queue.statistics())


def test_a_result_for_a_consumed_group_is_a_duplicate(queue) -> None:
    queue.admit(NOW_MS)
    late = Claimed(entry_id="1-0", payload=b"", owner="late", ordinal=0)
    scored = to_scored(queue)
    finish(queue, 1, scored)
    assert not queue.publish("groups", late, b"late", 0, 0)
    assert queue.evict(scored[0], 0, "late") == "gone"


def test_a_result_under_the_wrong_name_is_refused_and_changes_nothing(queue) -> None:
    queue.admit(NOW_MS)
    entry, ordinal, attempt = tickets(queue)[0]
    before = queue.statistics().stages["tickets"].entries
    with pytest.raises(QueueError, match="is not of ordinal 3"):
        queue.publish("tickets", entry, b"result", 3, attempt)
    with pytest.raises(QueueError, match="is not of ordinal 99"):
        queue.fail("tickets", entry, 99, "nan")
    with pytest.raises(QueueError, match="expected 0 of ordinal 0, found 1"):
        queue.publish("tickets", entry, b"result", ordinal, attempt + 1)
    assert queue.statistics().stages["tickets"].entries == before
    assert queue.publish("tickets", entry, b"result", ordinal, attempt)


def test_an_update_consumes_all_its_groups_or_none(queue) -> None:
    queue.admit(NOW_MS)
    scored = to_scored(queue)
    gone = Claimed(entry_id="1-0", payload=b"", owner="late", ordinal=0)
    with pytest.raises(QueueError, match="ordinal 7, is gone"):
        queue.finish_update(1, [scored[0], gone], [0, 7])
    with pytest.raises(ValueError, match="every ordinal once"):
        queue.finish_update(1, [scored[0], scored[0]], [0, 0])
    statistics = queue.statistics()
    assert (statistics.updates_done, statistics.consumed, statistics.in_flight) == (0, 0, 4)


def test_an_update_is_finished_once_and_in_turn(queue) -> None:
    queue.admit(NOW_MS)
    scored = to_scored(queue)
    first = {ordinal: scored[ordinal] for ordinal in (0, 1)}
    with pytest.raises(QueueError, match="expected 1, found 2"):
        finish(queue, 2, first)
    finish(queue, 1, first)
    finish(queue, 1, first)
    with pytest.raises(QueueError, match="1 is done, but ordinal 2 is in flight"):
        finish(queue, 1, {2: scored[2]})
    statistics = queue.statistics()
    assert (statistics.updates_done, statistics.consumed, statistics.in_flight) == (1, 2, 2)


def test_begin_drops_every_key_of_the_run_and_none_of_another(redis, queue) -> None:
    redis.set("{run}:weights:3", b"old")
    redis.set("{running}:weights:3", b"another run's")
    queue.admit(NOW_MS)
    queue.request_stop("drain")
    old = tickets(queue)[0]
    queue.begin(Ledger(groups_per_update=2, max_staleness=1, total_groups=8))
    assert redis.exists("{run}:weights:3") == 0
    assert redis.exists("{running}:weights:3") == 1
    assert queue.stop_requested() is None
    assert (queue.statistics().in_flight, queue.statistics().stages["tickets"].entries) == (0, 0)
    queue.admit(NOW_MS)
    assert not queue.publish("tickets", old[0], b"of the former start", *old[1:])
    assert len(tickets(queue)) == 4


def test_a_run_that_has_not_begun_is_named(redis) -> None:
    queue = Queue(redis, "absent")
    calls = (
        lambda: queue.admit(NOW_MS),
        lambda: queue.claim("tickets", "rollout-0", 1, 0),
        lambda: queue.publish("tickets", Claimed(entry_id="1-0", payload=b"", owner="late", ordinal=0), b"", 0, 0),
        queue.statistics,
    )
    for call in calls:
        with pytest.raises(RunMissing, match=r"absent.* begun"):
            call()
    assert redis.keys("{absent}:*") == []


def test_statistics_tell_waiting_from_worked_on(queue) -> None:
    queue.admit(NOW_MS)
    tickets(queue, count=3)
    statistics = queue.statistics()
    stage = statistics.stages["tickets"]
    assert (stage.entries, stage.pending, stage.ready) == (4, 3, 1)
    assert 0 <= stage.oldest_age_s < 60
    assert statistics.stages["scored"].oldest_age_s == 0
    assert (statistics.dispatched, statistics.in_flight, statistics.frontier) == (4, 4, 4)
    assert list(statistics.stages) == ["tickets", "groups", "scored"]


def test_the_first_reason_to_stop_stays(queue) -> None:
    assert queue.stop_requested() is None
    queue.request_stop("drain")
    queue.request_stop("later")
    assert queue.stop_requested() == "drain"


@pytest.fixture
def full(redis):
    """A context in which the server has no room."""

    @contextmanager
    def without_room():
        redis.config_set("maxmemory", 1)
        try:
            yield
        finally:
            redis.config_set("maxmemory", 0)

    return without_room


def test_a_full_server_refuses_a_result_and_leaves_its_group_where_it_was(full, queue) -> None:
    queue.admit(NOW_MS)
    entry, ordinal, attempt = tickets(queue)[0]
    with full(), pytest.raises(ServerFull, match=r"OOM|memory"):
        queue.publish("tickets", entry, b"result", ordinal, attempt)
    assert queue.publish("tickets", entry, b"result", ordinal, attempt)


def test_a_full_server_dispatches_nothing_and_forgets_nothing(full, redis, queue) -> None:
    queue.admit(NOW_MS)
    for entry, ordinal, _ in tickets(queue)[:2]:
        queue.evict(entry, ordinal, "stale", "tickets")
    with full(), pytest.raises(ServerFull):
        queue.admit(NOW_MS)
    assert redis.zrange("{run}:holes", 0, -1) == [b"0", b"1"]
    assert accounting_holds(queue.statistics())
    assert queue.admit(NOW_MS) == 2


def test_a_full_server_still_does_whatever_makes_room(full, queue) -> None:
    queue.admit(NOW_MS)
    scored = to_scored(queue)
    with full():
        finish(queue, 1, {0: scored[0], 1: scored[1]})
        assert queue.evict(scored[2], 2, "stale") == "evicted"
        assert queue.fail("scored", scored[3], 3, "nan") == "failed"
        assert queue.renew("learner") == frozenset()
        assert queue.release("rollout-0") == ()
        assert queue.reconcile(Ledger(groups_per_update=2, max_staleness=1, total_groups=8)) == 2
    assert accounting_holds(queue.statistics())


@pytest.mark.parametrize("run", ["", "a b", "a{b}", "*", "a/b"])
def test_a_run_whose_name_would_break_its_keys_is_refused(run) -> None:
    with pytest.raises(ValueError, match="expected a run name"):
        Queue(connect("unix:///nowhere/s"), run)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"groups_per_update": 0}, "groups_per_update >= 1"),
        ({"max_staleness": -1}, "max_staleness >= 0"),
        ({"max_groups": 1}, "max_groups >= 2"),
        ({"max_payload_bytes": -1}, "max_payload_bytes >= 0"),
        ({"max_losses": -1}, "max_losses >= 0"),
        ({"consumed": ((0, 3),), "frontier": 2}, r"intervals in \[0, 2\)"),
        ({"consumed": ((4, 6), (0, 3)), "frontier": 9}, "rising"),
    ],
)
def test_a_ledger_that_cannot_be_is_refused(change, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        Ledger(**{"groups_per_update": 2, "max_staleness": 0, "total_groups": 4} | change)
