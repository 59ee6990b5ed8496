from dataclasses import replace

import numpy as np
import pytest

from learner.advantage import build_credit
from learner.combination import Gate, Weighting, group_advantages
from learner.report import reward_statistics
from tests.tiny_groups import adapted_policy, draw_groups, rewards_of, with_values

TERMINAL = build_credit("terminal", 1.0, 1.0, 0.0, "group")
UNSCALED = build_credit("to_go", 1.0, 1.0, 0.0, "none")
ALONE = {"brightness": Weighting()}
GATED = {"style": Weighting(gate=Gate(reward="text", at_least=0.5)), "text": Weighting(weights=((1, 0.0),))}


@pytest.fixture(scope="module")
def drawn():
    (group,) = draw_groups(adapted_policy(), 1)
    return group


def table_of(group, rewards, weightings, credit=TERMINAL, update=1):
    (table,) = group_advantages([replace(group, rewards=tuple(rewards))], credit, weightings, update)
    return table


def constant(column):
    """The same values at every step."""
    return np.repeat(np.asarray(column, dtype=np.float64)[:, None], 4, axis=1)


@pytest.mark.parametrize(("update", "weight"), [(1, 1.0), (10, 1.0), (20, 0.5), (30, 0.0), (99, 0.0)])
def test_a_weight_runs_linearly_between_its_updates_and_stays_where_they_end(drawn, update, weight):
    schedule = {"brightness": Weighting(weights=((10, 1.0), (30, 0.0)))}
    values = np.random.default_rng(0).normal(size=(4, 4))
    plain = table_of(drawn, [rewards_of(values)], ALONE)
    np.testing.assert_allclose(table_of(drawn, [rewards_of(values)], schedule, update=update), weight * plain)


def test_a_sample_that_fails_the_gate_counts_as_the_worst(drawn):
    text, style = constant([1.0, 0.0, 1.0, 0.4]), constant([0.2, 0.9, 0.6, 0.1])
    found = table_of(drawn, [rewards_of(style, "style"), rewards_of(text, "text")], GATED)
    np.testing.assert_allclose(found, table_of(drawn, [rewards_of(constant([0.2, 0.0, 0.6, 0.0]))], ALONE))


def test_failing_a_gate_never_beats_passing_it_whatever_the_scores(drawn):
    style = constant([-7.0, 3.0, -2.0, 5.0])  # below the declared range, which is legal
    text = constant([1.0, 0.0, 1.0, 0.0])
    found = table_of(drawn, [rewards_of(style, "style"), rewards_of(text, "text")], GATED)[:, 0]
    assert max(found[[1, 3]]) <= min(found[[0, 2]])


def test_a_group_that_fails_as_a_whole_teaches_nothing(drawn):
    style = np.random.default_rng(0).random((4, 4))
    rewards = [rewards_of(style, "style"), rewards_of(constant([0.4, 0.0, 0.1, 0.2]), "text")]
    assert not table_of(drawn, rewards, GATED).any()


def test_a_gate_is_asked_at_every_step_for_itself(drawn):
    text = np.ones((4, 4))
    text[2, 1] = 0.0  # sample 2 fails at step 1, and only there
    style = np.full((4, 4), 0.5)
    found = table_of(drawn, [rewards_of(style, "style"), rewards_of(text, "text")], GATED, UNSCALED)
    assert found[2, 0] < 0 < found[0, 0]
    assert not found[:, 1:].any()


def test_gates_and_weights_leave_the_reported_values_as_they_were_scored(drawn):
    text, style = constant([1.0, 0.0, 1.0, 0.4]), constant([0.2, 0.9, 0.6, 0.1])
    group = replace(drawn, rewards=(rewards_of(style, "style"), rewards_of(text, "text")))
    found = reward_statistics([group], GATED, 1)
    assert found["style"].mean == pytest.approx([0.45] * 4)
    assert found["style"].passed == pytest.approx([0.5] * 4)
    assert (found["text"].passed, found["text"].weight) == ((), 0.0)


def test_a_gate_that_was_not_scored_where_it_is_asked_is_an_error(drawn):
    seen = np.array([False, False, False, True])
    rewards = [rewards_of(constant([1.0] * 4), "style"), rewards_of(constant([1.0] * 4), "text", scored=seen)]
    with pytest.raises(ValueError, match=r"gate 'text' to be scored at its steps \[0, 1, 2, 3\], found \[3\]"):
        table_of(drawn, rewards, GATED)


def test_step_weights_multiply_the_rewards_of_a_sum_over_later_steps(drawn):
    values = np.random.default_rng(0).normal(size=(4, 4))
    factors = (0.0, 1.0, 2.0, 4.0)
    found = table_of(drawn, [rewards_of(values)], {"brightness": Weighting(step_weights=factors)}, UNSCALED)
    exact = values.astype(np.float32).astype(np.float64)
    for transition in range(3):
        later = sum(factors[step] * exact[:, step] for step in range(transition + 1, 4))
        np.testing.assert_allclose(found[:, transition], later - later.mean())


def test_a_step_of_weight_zero_equals_one_that_was_not_scored(drawn):
    values = np.random.default_rng(0).normal(size=(4, 4))
    weighted = {"brightness": Weighting(step_weights=(0.0, 0.0, 1.0, 1.0))}
    mask = np.array([False, False, True, True])
    np.testing.assert_array_equal(
        table_of(drawn, [rewards_of(values)], weighted, UNSCALED),
        table_of(drawn, [rewards_of(values, scored=mask)], ALONE, UNSCALED),
    )


def test_a_judge_of_the_final_image_and_a_scorer_of_every_step_add_up(drawn):
    numbers = np.random.default_rng(1)
    gae = build_credit("gae", 0.5, 1.0, 0.0, "group")
    dense, final = numbers.normal(size=(4, 4)), numbers.normal(size=(4, 4))
    last = np.array([False, False, False, True])
    both = {"dense": Weighting(), "judge": Weighting(weights=((1, 3.0),))}
    found = table_of(drawn, [rewards_of(dense, "dense"), rewards_of(final, "judge", scored=last)], both, gae)
    apart = table_of(drawn, [rewards_of(dense)], ALONE, gae), table_of(drawn, [rewards_of(final)], ALONE, TERMINAL)
    np.testing.assert_allclose(found, apart[0] + 3.0 * apart[1])


def test_a_score_without_a_weighting_is_refused(drawn):
    with pytest.raises(ValueError, match="expected scores of the rewards"):
        table_of(drawn, [rewards_of(np.ones((4, 4)), "stranger")], ALONE)


def test_every_reward_is_normalised_by_itself_then_weighted_and_summed():
    (scored,) = draw_groups(adapted_policy(), 1)
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(4, 4)), 1000.0 * generator.normal(size=(4, 4))
    one = rewards_of(first, "one")
    two = rewards_of(second, "two", span=1000.0)
    both = {"one": Weighting(weights=((1, 2.0),)), "two": Weighting(weights=((1, -0.5),))}
    (table,) = group_advantages([replace(scored, rewards=(one, two))], TERMINAL, both, 1)

    def normalised(values):
        final = values[:, -1:].astype(np.float32).astype(np.float64)
        return (final - final.mean()) / final.std()

    expected = 2.0 * normalised(first) - 0.5 * normalised(second)
    np.testing.assert_allclose(table, expected.repeat(3, axis=1), rtol=1e-9)


@pytest.mark.parametrize("names", [("one",), ("one", "other"), ("one", "two", "three"), ("two", "one")])
def test_groups_that_disagree_about_their_rewards_are_refused(names):
    groups = draw_groups(adapted_policy(), 2)
    values = np.random.default_rng(0).normal(size=(4, 4))
    sets = [tuple(rewards_of(values, name) for name in given) for given in (("one", "two"), names)]
    groups = [replace(group, rewards=given) for group, given in zip(groups, sets, strict=True)]
    with pytest.raises(ValueError, match="disagree about their rewards"):
        group_advantages(groups, TERMINAL, dict.fromkeys(("one", "two"), Weighting()), 1)


def test_an_unscored_step_is_never_read():
    (scored,) = draw_groups(adapted_policy(), 1)
    values = np.random.default_rng(0).normal(size=(4, 4))
    spoiled = values.copy()
    spoiled[:, 1] = np.nan
    mask = np.array([True, False, True, True])
    gae = build_credit("gae", 0.5, 1.0, 0.0, "group")
    (here,) = group_advantages([with_values(scored, values, scored=mask)], gae, ALONE, 1)
    (there,) = group_advantages([with_values(scored, spoiled, scored=mask)], gae, ALONE, 1)
    np.testing.assert_array_equal(here, there)
    assert np.isfinite(here).all()
