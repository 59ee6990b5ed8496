"""What each last step trains, against the true gradient of the linear chain."""

import numpy as np
import pytest

from learner.advantage import build_credit
from learner.combination import Weighting, group_advantages
from tests.linear_chain import chain_behaviour, draw_chain, mean_and_error, per_sample_gradients, true_gradient

G = 40_000
OPTIONS = {"drop": {}, "floor": {"last_step": "floor", "last_std": 0.3}, "x0": {"last_step": "x0", "last_std": 0.4}}

ALONE = {"image": Weighting()}


def estimate(behaviour, mode="terminal", lam=1.0):
    scored = draw_chain(behaviour, G)
    credit = build_credit(mode, lam, 1.0, 0.0, "none")
    return mean_and_error(per_sample_gradients(scored, group_advantages([scored], credit, ALONE, 1)[0]))


@pytest.mark.parametrize("mode", ["terminal", "gae"])
@pytest.mark.parametrize("last_step", OPTIONS)
def test_every_trained_transition_has_the_true_gradient_of_the_final_image(last_step, mode):
    behaviour = chain_behaviour(**OPTIONS[last_step])
    mean, error = estimate(behaviour, mode)
    expected = true_gradient(behaviour)[: len(mean)]
    assert np.all(np.abs(expected) > 8.0 * error)  # sharp enough to tell
    np.testing.assert_array_less(np.abs(mean - expected), 4.0 * error)


def test_drop_alone_leaves_the_last_calls_own_effect_untrained():
    assert len(estimate(chain_behaviour())[0]) == 2
    assert abs(true_gradient(chain_behaviour())[2]) > 0.3
    for last_step in ("floor", "x0"):
        assert len(estimate(chain_behaviour(**OPTIONS[last_step]))[0]) == 3


@pytest.mark.parametrize("last_step", ["floor", "x0"])
def test_a_single_step_has_the_true_gradient(last_step):
    behaviour = chain_behaviour(sigmas=(1.0, 0.0), taus=(1.0,), **OPTIONS[last_step])
    mean, error = estimate(behaviour)
    assert true_gradient(behaviour) == pytest.approx([-1.0])
    assert mean == pytest.approx([-1.0], abs=float(4.0 * error[0]))
    assert error[0] < 0.03


def test_in_x0_space_a_steps_own_image_is_its_action_and_may_be_credited_to_it():
    behaviour = chain_behaviour(**OPTIONS["x0"])
    mean, error = estimate(behaviour, "next")
    expected = [true_gradient(behaviour, image=step)[step] for step in range(3)]
    assert expected == pytest.approx([-1.0, -0.7, -0.4])
    np.testing.assert_array_less(np.abs(mean - expected), 4.0 * error)


def test_in_x0_space_the_baseline_is_the_image_before():
    behaviour = chain_behaviour(**OPTIONS["x0"])
    scored = draw_chain(behaviour, 6)
    values = scored.rewards[0].values.astype(float)
    (table,) = group_advantages([scored], build_credit("gae", 0.0, 1.0, 0.0, "none"), ALONE, 1)
    gains = np.column_stack([values[:, 0], values[:, 1] - values[:, 0], values[:, 2] - values[:, 1]])
    np.testing.assert_allclose(table, gains - gains.mean(0), atol=1e-12)
