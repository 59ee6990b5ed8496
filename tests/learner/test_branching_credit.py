"""Groups that share prefixes, on the linear chain whose gradient is known."""

from dataclasses import replace

import numpy as np
import pytest

from learner.advantage import Rewards, advantages, build_credit
from learner.batching import build_pairs
from learner.combination import Weighting, group_advantages
from tests.linear_chain import chain_behaviour, draw_chain, mean_and_error, per_sample_gradients, true_gradient

ALONE = {"image": Weighting()}


def credit(mode="terminal", scale="none"):
    return build_credit(mode, 1.0, 1.0, 0.0, scale)


@pytest.mark.parametrize("mode", ["terminal", "gae", "to_go", "next"])
@pytest.mark.parametrize("branching", [(4000, 1, 3), (4000, 3), (2000, 3, 2), (2000, 2, 3, 1)])
def test_a_tree_has_the_gradient_of_independent_samples(branching, mode):
    behaviour = chain_behaviour(branching=branching)
    scored = draw_chain(behaviour, 12_000)
    table = per_sample_gradients(scored, group_advantages([scored], credit(mode), ALONE, 1)[0])
    scale = np.array([scored.group.strides[step + 1] for step in (0, 1)])
    assert np.all((table != 0.0).sum(0) * scale == 12_000)  # one pair for every transition that is shared
    mean, error = mean_and_error(table, block=12_000 // branching[0])
    sums = {"to_go": [true_gradient(behaviour, 1) + true_gradient(behaviour, 2), true_gradient(behaviour, 2)]}
    firsts = {"next": [true_gradient(behaviour, 1), true_gradient(behaviour, 2)]}
    wanted = (sums | firsts).get(mode, [true_gradient(behaviour)] * 2)
    expected = np.array([wanted[step][step] for step in (0, 1)])
    assert np.all(np.abs(expected) > 5.0 * error)
    np.testing.assert_array_less(np.abs(mean - expected), 4.0 * error)


def test_small_families_have_the_true_gradient_and_not_a_share_of_it():
    """Two siblings: a mean that includes the action itself would halve its credit."""
    behaviour = chain_behaviour(branching=(2, 1, 2))
    means = []
    for seed in range(1200):
        scored = draw_chain(behaviour, 4, seed)
        means.append(per_sample_gradients(scored, group_advantages([scored], credit(), ALONE, 1)[0]).mean(0))
    mean, error = mean_and_error(np.array(means))
    expected = true_gradient(behaviour)[:2]
    assert np.all(4.0 * error < 0.5 * np.abs(expected))
    np.testing.assert_array_less(np.abs(mean - expected), 4.0 * error)


def test_siblings_are_freer_of_noise_than_independent_samples():
    """The worth of the state they share, here most of the final's variance, is not in their difference."""
    taus = (1.0, 0.3, 0.3)
    tree = chain_behaviour(taus=taus, branching=(6000, 1, 2))
    plain = chain_behaviour(taus=taus)
    errors = []
    for behaviour in (tree, plain):
        scored = draw_chain(behaviour, 12_000)
        table = per_sample_gradients(scored, group_advantages([scored], credit(), ALONE, 1)[0])
        errors.append(mean_and_error(table, block=2)[1][1])
    assert errors[0] < 0.8 * errors[1]


def test_a_shared_transition_is_one_pair_that_counts_for_all_who_share_it():
    scored = draw_chain(chain_behaviour(branching=(2, 2, 3)), 12)
    pairs = build_pairs([scored], group_advantages([scored], credit(), ALONE, 1))
    assert len(pairs) == 4 + 12
    assert [float(pairs.count[pairs.step == step].sum()) for step in (0, 1)] == [12.0, 12.0]
    assert set(pairs.count[pairs.step == 0].tolist()) == {3.0}


def rewards(values, strides=(6, 3, 1, 1)):
    values = np.asarray(values, dtype=float)
    return Rewards(values, np.ones(values.shape[1], dtype=bool), (0, 1), 1.0, strides=strides)


def test_a_family_whose_finals_are_equal_gets_exactly_0():
    generator = np.random.default_rng(0)
    values = generator.random((12, 3))
    values[:3, 2] = 0.1 + 0.2
    (table,) = advantages([rewards(values)], credit("gae", "group"))
    assert np.all(table[:3, 1] == 0.0)
    assert np.all(table[3:, 1] != 0.0)


def test_siblings_need_no_baseline():
    generator = np.random.default_rng(0)
    values = generator.random((12, 3))
    shifted = values + np.array([0.0, 7.0, 0.0]) * np.repeat(generator.random(4), 3)[:, None]
    for mode in ("gain", "gae", "control_variate"):
        (one,), (other,) = (advantages([rewards(v)], credit(mode)) for v in (values, shifted))
        np.testing.assert_allclose(one[:, 1], other[:, 1], atol=1e-12)


def test_where_a_group_has_one_action_only_there_is_nothing_to_learn_from_it():
    generator = np.random.default_rng(0)
    (table,) = advantages([rewards(generator.random((6, 3)), strides=(6, 6, 1, 1))], credit("gae"))
    assert np.all(table[:, 0] == 0.0)
    assert np.any(table[:, 1] != 0.0)


def test_saturated_trees_give_exactly_0():
    values = np.random.default_rng(0).random((12, 3))
    values[:, 2] = 1.0
    (table,) = advantages([rewards(values)], credit("gae", "group"))
    assert np.all(table == 0.0)


def test_the_order_of_groups_and_what_they_share_does_not_mix():
    """A tree among independent groups: each is credited by its own shape."""
    tree = draw_chain(chain_behaviour(branching=(4, 1, 3)), 12, 1)
    plain = replace(draw_chain(chain_behaviour(), 12, 2))
    together = group_advantages([tree, plain], credit(), ALONE, 1)
    np.testing.assert_array_equal(together[0], group_advantages([tree], credit(), ALONE, 1)[0])
    np.testing.assert_array_equal(together[1], group_advantages([plain], credit(), ALONE, 1)[0])
