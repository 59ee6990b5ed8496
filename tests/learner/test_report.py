from dataclasses import replace

import numpy as np
import pytest

from learner.combination import Weighting
from learner.report import reward_statistics
from tests.tiny_groups import adapted_policy, behaviour, draw_group, draw_groups, rewards_of, with_values

ALONE = {"brightness": Weighting()}


def test_a_step_that_was_not_scored_has_no_statistics():
    (group,) = draw_groups(adapted_policy(), 1)
    values = np.arange(16.0).reshape(4, 4)
    values[:, 1] = np.nan
    scored = np.array([True, False, True, True])
    found = reward_statistics([with_values(group, values, scored=scored)], ALONE, 1)["brightness"]
    for figures in (found.mean, found.spread, found.zero_spread):
        assert np.isnan(figures[1])
        assert np.isfinite([figures[0], figures[2], figures[3]]).all()


def test_groups_of_one_update_may_differ_in_their_steps():
    policy = adapted_policy()
    groups = [draw_group(policy, 0, how=behaviour(2)), draw_group(policy, 1, how=behaviour(4))]
    groups = [with_values(groups[0], np.ones((4, 2))), with_values(groups[1], np.full((4, 4), 3.0))]
    assert reward_statistics(groups, ALONE, 1)["brightness"].mean == (2.0, 2.0, 3.0, 3.0)


def test_every_reward_has_its_own_statistics():
    (group,) = draw_groups(adapted_policy(), 1)
    values = np.arange(16.0).reshape(4, 4)
    both = replace(group, rewards=(rewards_of(values, "a"), rewards_of(-values, "b")))
    found = reward_statistics([both], {"a": Weighting(), "b": Weighting()}, 1)
    assert found["b"].mean == tuple(-mean for mean in found["a"].mean)
    assert found["a"].spread == pytest.approx(found["b"].spread)
