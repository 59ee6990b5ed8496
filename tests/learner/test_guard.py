import pytest
import torch

from learner.guard import TOLERANCE, RatioGuardError, check_drift


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_rounding_passes_and_more_does_not(dtype):
    check_drift({0: 0.0, 1: TOLERANCE[dtype]}, dtype)
    with pytest.raises(RatioGuardError, match=r"^step 1: .*expected at most .*Look for: states rounded"):
        check_drift({0: 0.0, 1: 1.01 * TOLERANCE[dtype]}, dtype)


def test_a_drift_that_is_not_a_number_does_not_pass():
    with pytest.raises(RatioGuardError, match=r"^step 2: the learner's mean is nan standard deviations away"):
        check_drift({2: float("nan")}, torch.float32)
