import threading

import pytest

from services.data.queue import Queue
from services.data.server import connect, without_retry
from services.data.wire import Ticket, decode
from services.errors import ServerUnavailable

NOW_MS = 1_760_000_000_123


def tickets(queue, count=100, consumer="rollout-0"):
    """Claimed tickets with what they say: [(claimed, ordinal, attempt)]."""
    claimed = queue.claim("tickets", consumer, count, 0)
    read = [(entry, decode(entry.payload, Ticket)) for entry in claimed]
    return [(entry, ticket.ordinal, ticket.attempt) for entry, ticket in read]


def names(claimed):
    return [(ordinal, attempt) for _, ordinal, attempt in claimed]


def test_a_restarted_consumer_gets_its_own_pending_entries_first(redis, queue) -> None:
    queue.admit(NOW_MS)
    assert names(tickets(queue, count=2)) == [(0, 0), (1, 0)]
    restarted = Queue(redis, "run")
    assert names(tickets(restarted, count=1)) == [(0, 0)]
    assert names(tickets(restarted, count=5)) == [(1, 0)]
    assert names(tickets(restarted, count=5)) == [(2, 0), (3, 0)]
    assert names(tickets(restarted)) == []
    assert names(tickets(Queue(redis, "run"), consumer="rollout-1")) == []


def test_claims_that_were_dropped_come_again_when_they_are_recalled(queue) -> None:
    queue.admit(NOW_MS)
    assert names(tickets(queue, count=3)) == [(0, 0), (1, 0), (2, 0)]
    queue.recall("rollout-0")
    again = tickets(queue, count=2)
    assert [entry.ordinal for entry, *_ in again] == [0, 1]
    assert queue.publish("tickets", again[0][0], b"0", 0, 0)
    assert names(tickets(queue)) == [(2, 0)]
    assert names(tickets(queue)) == [(3, 0)]


def test_what_a_lost_answer_held_is_claimed_again_and_what_the_consumer_holds_is_not(redis, queue) -> None:
    queue.admit(NOW_MS)
    first = tickets(queue)[0]
    errors = []

    def claim() -> None:
        try:
            queue.claim("tickets", "rollout-0", 1, 5_000)
        except ServerUnavailable as error:
            errors.append(error)

    waiting = threading.Thread(target=claim)
    waiting.start()
    while not (blocked := [client for client in redis.client_list() if "b" in client["flags"]]):
        assert waiting.is_alive()
    redis.client_kill_filter(_id=blocked[0]["id"])
    waiting.join(timeout=5)
    assert len(errors) == 1
    queue.fail("tickets", first[0], first[1], "nan")
    queue.admit(NOW_MS)
    redis.xreadgroup("tickets", "rollout-0", {"{run}:tickets": ">"}, count=1)  # delivered, but never arrived
    assert names(tickets(queue)) == [(0, 1)]
    assert names(tickets(queue)) == []


def test_a_claim_waits_for_an_entry_and_no_longer_than_its_deadline(redis, queue) -> None:
    assert queue.claim("tickets", "rollout-0", 1, 20) == []
    found = []
    waiting = threading.Thread(target=lambda: found.extend(queue.claim("tickets", "rollout-0", 1, 5_000)))
    waiting.start()
    Queue(redis, "run").admit(NOW_MS)
    waiting.join(timeout=5)
    assert len(found) == 1
    with pytest.raises(ValueError, match="block_ms"):
        queue.claim("tickets", "rollout-0", 1, 3_600_000)


def test_a_server_that_does_not_answer_is_worth_another_try() -> None:
    queue = Queue(without_retry(connect("unix:///nowhere/s")), "run")
    with pytest.raises(ServerUnavailable, match="claim from") as caught:
        queue.claim("tickets", "rollout-0", 1, 0)
    assert caught.value.exit_code == 75
