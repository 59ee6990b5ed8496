"""How many groups and bytes may be in flight is decided on the server, before a group is drawn."""

import pytest

from services.data.queue import Ledger, Queue
from services.data.wire import Ticket, decode
from services.errors import ConfigError


def begun(redis, **limits):
    queue = Queue(redis, "run")
    queue.begin(Ledger(**{"groups_per_update": 2, "max_staleness": 9, "total_groups": 100} | limits))
    return queue


def draw(queue, count, size_bytes):
    entries = queue.claim("tickets", "rollout-0/a", count, 0)
    for entry in entries:
        ticket = decode(entry.payload, Ticket)
        assert queue.publish("tickets", entry, b"%d" % ticket.ordinal, ticket.ordinal, ticket.attempt, size_bytes)
    return len(entries)


def score(queue, count, size_bytes):
    for entry in queue.claim("groups", "reward-0/a", count, 0):
        assert queue.publish("groups", entry, entry.payload, int(entry.payload), 0, size_bytes)


def finish(queue, update, count=2):
    entries = queue.claim("scored", "learner", count, 0)
    queue.finish_update(update, entries, [int(entry.payload) for entry in entries])


def test_no_more_groups_than_the_bound_are_in_flight(redis) -> None:
    queue = begun(redis, max_groups=3)
    assert [queue.admit(0), queue.admit(0)] == [3, 0]
    draw(queue, 3, 0)
    score(queue, 3, 0)
    assert queue.admit(0) == 0
    finish(queue, 1)
    assert queue.admit(0) == 2


def test_groups_wait_for_room_and_a_ticket_is_charged_like_the_largest_group(redis) -> None:
    queue = begun(redis, max_payload_bytes=1000)
    assert queue.admit(0) == 2, "before the first group is drawn nobody knows what one takes: one update's groups"
    draw(queue, 1, 200)
    assert queue.statistics().payload_bytes == 200
    assert [queue.admit(0), queue.admit(0)] == [3, 0]
    draw(queue, 9, 200)
    score(queue, 9, 100)
    assert queue.statistics().payload_bytes == 500
    assert queue.admit(0) == 2
    finish(queue, 1)
    assert queue.statistics().payload_bytes == 300
    assert queue.admit(0) == 1


@pytest.mark.parametrize("end", ["fail", "evict", "release"])
def test_a_group_that_leaves_takes_its_bytes_with_it(redis, end) -> None:
    queue = begun(redis, max_losses=0)
    queue.admit(0)
    draw(queue, 2, 200)
    [entry] = queue.claim("groups", "reward-0/a", 1, 0)
    if end == "release":
        assert queue.release("reward-0")[0].fate == "dead"
    elif end == "fail":
        queue.fail("groups", entry, 0, "nan")
    else:
        queue.evict(entry, 0, "stale", "groups")
    assert queue.statistics().payload_bytes == 200


def test_a_budget_that_one_update_does_not_fit_into_is_named_and_not_waited_for(redis) -> None:
    queue = begun(redis, max_payload_bytes=350)
    queue.admit(0)
    entry, other = queue.claim("tickets", "rollout-0/a", 2, 0)
    queue.publish("tickets", entry, b"0", 0, 0, 200)
    queue.evict(other, 1, "BlobError", "tickets")
    assert queue.admit(0) == 0, "the first group is still to be scored, and may shrink"
    score(queue, 1, 200)
    with pytest.raises(ConfigError, match=r"fleet.max_payload_bytes .* at least 400 bytes, found 350"):
        queue.admit(0)
