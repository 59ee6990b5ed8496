import pytest

from services.data.letters import DeadLetters
from services.data.queue import Ledger, Queue, accounting_holds
from services.data.wire import TICKET_SCHEMA, Ticket, decode


@pytest.fixture
def queue(redis):
    queue = Queue(redis, "run")
    queue.begin(Ledger(groups_per_update=2, max_staleness=0, total_groups=8, max_attempts=1))
    queue.admit(0)
    for entry in queue.claim("tickets", "rollout-0/a", 2, 0):
        ordinal = decode(entry.payload, Ticket).ordinal
        assert queue.fail("tickets", entry, ordinal, "ValueError: nan", "line 7") == "dead"
    return queue


@pytest.fixture
def letters(redis, queue):
    return DeadLetters(redis, "run")


def waiting(queue):
    tickets = [decode(entry.payload, Ticket) for entry in queue.claim("tickets", "rollout-0/b", 9, 0)]
    return [(ticket.ordinal, ticket.attempt) for ticket in tickets]


def test_a_letter_says_which_group_died_where_and_why(letters, redis) -> None:
    first, second = letters.all()
    assert (first.ordinal, first.attempt, first.stage) == (0, 0, "tickets")
    assert (first.reason, first.error) == ("ValueError: nan", "line 7")
    assert abs(first.unix_time - redis.time()[0]) < 60
    assert first.entry() == Ticket(ordinal=0, attempt=0, created_ms=0)
    assert first.group() is None
    assert first.described()["entry"] == {"schema": TICKET_SCHEMA, "ordinal": 0, "attempt": 0, "created_ms": 0}
    assert second.ordinal == 1


def test_a_group_that_is_tried_again_comes_before_any_new_one_in_a_new_attempt(letters, queue) -> None:
    assert letters.retry([1, 7]) == (1,)
    assert [letter.ordinal for letter in letters.all()] == [0]
    queue.admit(0)
    assert waiting(queue) == [(1, 1), (2, 0)]
    statistics = queue.statistics()
    assert (statistics.dead, statistics.evictions) == (1, {"retried": 1})
    assert accounting_holds(statistics)
    assert letters.retry([1]) == ()


def test_a_dropped_letter_is_gone_and_its_group_stays_dead(letters, queue) -> None:
    assert letters.drop([0, 7]) == (0,)
    assert letters.drop([0]) == ()
    assert letters.retry([0]) == ()
    assert [letter.ordinal for letter in letters.all()] == [1]
    queue.reconcile(Ledger(groups_per_update=2, max_staleness=0, total_groups=8, max_attempts=1))
    queue.admit(0)
    assert waiting(queue) == [(2, 0), (3, 0)]
    assert queue.statistics().dead == 2
    assert accounting_holds(queue.statistics())


def test_a_letter_that_no_release_we_know_wrote_is_shown_without_its_entry(letters, redis) -> None:
    redis.xadd(
        "{run}:dead", {"ordinal": 9, "attempt": 0, "stage": "groups", "reason": "", "error": "", "payload": b"?"}
    )
    assert letters.all()[-1].entry() is None
    assert letters.all()[-1].described()["entry"] is None
