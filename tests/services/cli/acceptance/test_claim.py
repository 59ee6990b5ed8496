import math

import pytest

from services.cli.acceptance.claim import Claim, Finding, at_most, look_at


def claim(check, gpus=0):
    return Claim(name="a:b", gpus=gpus, check=check, why="a reason")


def test_a_claim_that_needs_more_gpus_than_there_are_is_skipped_and_says_why() -> None:
    outcome = look_at(claim(lambda: 1 / 0, gpus=2), gpus=1)
    assert outcome.status == "skipped"
    assert outcome.expected == "at least 2 GPU(s): a reason"
    assert outcome.found == "1"


def test_a_check_that_raises_has_failed_with_its_error_and_where() -> None:
    outcome = look_at(claim(lambda: 1 / 0), gpus=0)
    assert outcome.status == "failed"
    assert outcome.found == "ZeroDivisionError: division by zero"
    assert "test_claim.py" in outcome.figures["traceback"]


def test_the_time_that_a_check_took_is_told() -> None:
    ticks = iter([10.0, 12.5])
    outcome = look_at(claim(lambda: Finding(status="measured", expected="", found="")), 0, lambda: next(ticks))
    assert outcome.seconds == 2.5


@pytest.mark.parametrize(("found", "status"), [(1.0, "passed"), (1.01, "failed"), (math.nan, "failed")])
def test_a_limit_is_kept_up_to_the_limit_itself_and_never_by_no_number(found, status) -> None:
    assert at_most(found, 1.0, "units").status == status
