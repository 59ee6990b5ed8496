import pytest

from rewards.breaker import Breaker, BreakerOpenError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures=2, pause_s=10.0, clock=clock)


def test_it_opens_after_enough_failures_in_a_row(breaker) -> None:
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    breaker.enter("judge")
    breaker.failed()
    assert breaker.open
    with pytest.raises(BreakerOpenError, match=r"judge: not asked: the last 2 calls failed; trying again in 10.0 s"):
        breaker.enter("judge")


def test_after_the_pause_one_caller_tries_and_the_others_still_wait(breaker, clock) -> None:
    breaker.failed()
    breaker.failed()
    clock.now = 10.0
    assert not breaker.open
    breaker.enter("judge")
    with pytest.raises(BreakerOpenError):
        breaker.enter("judge")


def test_the_try_that_succeeds_closes_it_and_the_one_that_fails_opens_it_for_another_pause(breaker, clock) -> None:
    breaker.failed()
    breaker.failed()
    clock.now = 10.0
    breaker.enter("judge")
    breaker.failed()
    clock.now = 19.9
    with pytest.raises(BreakerOpenError):
        breaker.enter("judge")
    clock.now = 20.0
    breaker.enter("judge")
    breaker.succeeded()
    breaker.enter("judge")
    breaker.enter("judge")


def test_a_try_that_never_reports_back_lets_the_next_one_try_after_a_pause(breaker, clock) -> None:
    breaker.failed()
    breaker.failed()
    clock.now = 10.0
    breaker.enter("judge")
    clock.now = 20.0
    breaker.enter("judge")
