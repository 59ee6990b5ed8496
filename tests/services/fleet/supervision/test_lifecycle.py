"""A worker's life, as a table of what is seen and what follows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.fleet.supervision.lifecycle import (
    ENDED,
    LIVING,
    Life,
    Limits,
    Seen,
    State,
    advance,
    drained,
    forgiven,
    healthy,
    killed,
    restarted,
    why_hopeless,
)

LIMITS = Limits(
    suspect_s=5,
    dead_s=20,
    start_s=300,
    hang_s=60,
    drain_s=30,
    restarts=2,
    window_s=600,
    backoff_s=1,
    backoff_max_s=3,
)


@pytest.mark.parametrize(
    ("life", "seen", "state", "reason"),
    [
        (Life(), Seen(now=10), State.STARTING, ""),
        (Life(), Seen(now=10, ready=True), State.HEALTHY, ""),
        (Life(), Seen(now=301), State.DEAD, "not ready after 301 s"),
        (Life(), Seen(now=10, ended="killed"), State.DEAD, "killed"),
        (Life(silence_s=100), Seen(now=10, elapsed_s=100), State.STARTING, ""),
        (Life(state=State.HEALTHY), Seen(now=10, elapsed_s=1), State.HEALTHY, ""),
        (Life(state=State.HEALTHY, silence_s=5), Seen(now=10, elapsed_s=1), State.SUSPECT, ""),
        (Life(state=State.SUSPECT, silence_s=10), Seen(now=10, beat=True), State.HEALTHY, ""),
        (Life(state=State.SUSPECT, silence_s=19.5), Seen(now=10, elapsed_s=1), State.DEAD, "no heartbeat for 20 s"),
        (Life(state=State.SUSPECT, silence_s=19.5), Seen(now=10), State.SUSPECT, ""),
        (Life(state=State.HEALTHY), Seen(now=10, beat=True, work_s=61), State.DEAD, "hung: 61 s in one piece of work"),
        (Life(state=State.HEALTHY), Seen(now=10, ended="its loop ended"), State.DEAD, "its loop ended"),
        (Life(state=State.DRAINING), Seen(now=10, beat=True), State.DRAINING, ""),
        (Life(state=State.DRAINING), Seen(now=10, ended="drained"), State.STOPPED, "drained"),
        (Life(state=State.DRAINING), Seen(now=31), State.STOPPED, "still busy 31 s after it was asked to stop"),
        (Life(state=State.DEAD), Seen(now=10), State.RESTARTING, ""),
        (Life(state=State.DEAD, deaths=(1, 2)), Seen(now=10), State.RESTARTING, ""),
        (Life(state=State.DEAD, deaths=(1, 2, 3)), Seen(now=10), State.FAILED, ""),
        (Life(state=State.DEAD, deaths=(1, 2, 700)), Seen(now=700), State.RESTARTING, ""),
        (Life(state=State.STOPPED), Seen(now=10, beat=True, ready=True), State.STOPPED, ""),
        (Life(state=State.FAILED), Seen(now=10, beat=True, ready=True), State.FAILED, ""),
    ],
)
def test_what_is_seen_decides_what_follows(life, seen, state, reason) -> None:
    after = advance(life, seen, LIMITS)
    assert (after.state, after.reason) == (state, reason)


def test_the_pause_doubles_with_every_restart_up_to_its_bound() -> None:
    limits = replace(LIMITS, restarts=9)
    pauses = [
        advance(Life(state=State.DEAD, deaths=(1.0,) * deaths), Seen(now=2), limits, jitter=0.5).retry_at - 2
        for deaths in range(1, 5)
    ]
    assert pauses == [1, 2, 3, 3]


def test_a_restarted_worker_starts_and_is_not_healthy_before_it_is_ready() -> None:
    again = restarted(Life(state=State.RESTARTING, silence_s=99), 50)
    assert (again.state, again.incarnation, again.silence_s) == (State.STARTING, 1, 0)
    assert advance(again, Seen(now=51, beat=True), LIMITS).state is State.STARTING
    assert advance(again, Seen(now=51, beat=True, ready=True), LIMITS).state is State.HEALTHY


def test_a_worker_that_works_at_nothing_stops_at_once_when_it_is_asked_to() -> None:
    assert drained(Life(state=State.RESTARTING), 1).state is State.STOPPED
    assert drained(Life(state=State.STARTING), 1).state is State.STOPPED
    assert drained(Life(state=State.HEALTHY), 1).state is State.DRAINING
    assert drained(Life(state=State.FAILED), 1).state is State.FAILED


def test_a_rank_is_ended_with_its_peers_unless_it_is_over_already() -> None:
    ended = killed(Life(state=State.HEALTHY), 1, "its peer died")
    assert (ended.state, ended.deaths) == (State.DEAD, (1,))
    assert killed(Life(state=State.RESTARTING), 1, "its peer died").state is State.RESTARTING


def test_a_death_that_was_not_the_workers_own_leaves_its_budget_as_it_was() -> None:
    died = advance(Life(state=State.HEALTHY, deaths=(1, 2)), Seen(now=3, ended="killed"), LIMITS)
    assert forgiven(died, 3).deaths == (1, 2)
    assert advance(forgiven(died, 3), Seen(now=4), LIMITS).state is State.RESTARTING
    given_up = advance(died, Seen(now=4), LIMITS)
    assert given_up.state is State.FAILED
    assert forgiven(given_up, 9) == given_up
    assert (forgiven(given_up, 3).state, forgiven(given_up, 3).deaths) == (State.RESTARTING, (1, 2))


def test_a_role_is_hopeless_when_what_is_left_cannot_be_enough() -> None:
    gone, well = Life(state=State.FAILED, reason="killed"), Life(state=State.HEALTHY)
    assert why_hopeless("reward", [gone, well], 1) is None
    assert why_hopeless("reward", [well, Life(state=State.RESTARTING)], 2) is None
    sentence = why_hopeless("reward", [gone, well], 2)
    assert sentence is not None
    assert "1 reward worker(s) spent their restarts" in sentence
    assert sentence.endswith("killed")
    assert healthy([gone, well, Life(state=State.SUSPECT)]) == 2


SEEN = st.builds(
    Seen,
    now=st.just(0.0),
    elapsed_s=st.floats(0, 2),
    beat=st.booleans(),
    ready=st.booleans(),
    work_s=st.floats(0, 100),
    ended=st.sampled_from([None, None, None, "killed"]),
)


@given(st.lists(st.tuples(st.floats(0, 10), SEEN), max_size=60))
def test_whatever_is_seen_the_dead_do_not_work_again_without_a_start(looks) -> None:
    life, now = Life(), 0.0
    for wait, seen in looks:
        now += wait
        before, life = life, advance(life, replace(seen, now=now), LIMITS)
        if before.state not in LIVING:
            assert life.state not in (State.HEALTHY, State.SUSPECT)
        if before.state in ENDED:
            assert life is before
        assert len(life.deaths) <= LIMITS.restarts + 1
        if life.state is State.RESTARTING and life.retry_at <= now:
            life = restarted(life, now)
