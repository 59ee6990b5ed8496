from dataclasses import replace

import pytest
import torch

from learner.guard import TOLERANCE, RatioGuardError, check_drift
from learner.update import Learner
from tests.tiny_groups import adapted_policy, behaviour, draw_groups, fingerprint, spec


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_rounding_passes_and_more_does_not(dtype):
    check_drift({0: 0.0, 1: TOLERANCE[dtype]}, dtype)
    with pytest.raises(RatioGuardError, match=r"^step 1: .*expected at most .*Look for: states rounded"):
        check_drift({0: 0.0, 1: 1.01 * TOLERANCE[dtype]}, dtype)


def test_a_drift_that_is_not_a_number_does_not_pass():
    with pytest.raises(RatioGuardError, match=r"^step 2: the learner's mean is nan standard deviations away"):
        check_drift({2: float("nan")}, torch.float32)


@pytest.mark.parametrize("call", ["update", "check_group"])
def test_a_group_of_another_guidance_is_refused_before_anything_is_changed(call):
    policy = adapted_policy()
    learner, groups = Learner(policy, spec()), draw_groups(policy, how=replace(behaviour(), guidance=3.5))
    before = fingerprint(learner)
    with pytest.raises(RatioGuardError, match=r"group 0 .* guidance 3\.5, .* computes with 1; `sampling\.guidance`"):
        if call == "update":
            learner.update(groups, guard=False)
        else:
            learner.check_group(groups[0], learner.parameters)
    assert fingerprint(learner) == before
