from dataclasses import replace

import numpy as np
import pytest

from learner.temperature import SpreadTarget, TemperatureControl, spread_after
from learner.update import Learner
from rollout.types import Behaviour
from tests.tiny_groups import adapted_policy, behaviour, draw_group, rewards_of, spec, with_values

WEIGHTS = {"brightness": 1.0, "wide": -3.0}


def target(**options):
    values = {
        "start": (0.5, 0.5, 0.5, 0.5),
        "of": "reward",
        "target": 0.3,
        "gain": 0.3,
        "minimum": 0.05,
        "maximum": 1.0,
    }
    return SpreadTarget(**values | options)


@pytest.fixture(scope="module")
def drawn():
    return draw_group(adapted_policy(), 0)


def group_with(drawn, taus, spreads):
    """A group drawn at temperatures `taus` whose reward has the standard deviations `spreads` by image."""
    signs = np.array([1.0, -1.0, 1.0, -1.0])[:, None]
    how = Behaviour(sigmas=behaviour().sigmas, temperatures=tuple(taus), height=2, width=3)
    group = with_values(drawn, 0.5 + signs * np.array(spreads)[None, :])
    return replace(group, group=replace(group.group, behaviour=how))


def test_the_spread_after_a_transition_is_that_of_the_next_image_it_can_change(drawn):
    group = group_with(drawn, (0.5,) * 4, (0.1, 0.2, 0.3, 0.4))
    assert spread_after(group, "reward", WEIGHTS) == pytest.approx({0: 0.2, 1: 0.3, 2: 0.4})
    finals_only = replace(group.rewards[0], scored=np.array([False, False, False, True]))
    assert spread_after(replace(group, rewards=(finals_only,)), "reward", WEIGHTS) == pytest.approx(
        {0: 0.4, 1: 0.4, 2: 0.4}
    )
    diverse = replace(group, group=replace(group.group, diversity=(1.0, 2.0, 3.0, 4.0)))
    assert spread_after(diverse, "latent", WEIGHTS) == pytest.approx({0: 2.0, 1: 3.0, 2: 4.0})


def test_rewards_are_measured_in_units_of_their_range_and_shared_by_weight(drawn):
    group = group_with(drawn, (0.5,) * 4, (0.2,) * 4)
    second = rewards_of(group.rewards[0].values * 10.0, name="wide", span=100.0)
    assert spread_after(replace(group, rewards=(*group.rewards, second)), "reward", WEIGHTS)[0] == pytest.approx(
        0.25 * 0.2 + 0.75 * 0.02
    )


@pytest.mark.parametrize("elasticity", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("delay", [0, 1, 4, 8])
def test_the_spread_comes_to_its_target_however_late_the_groups_are(drawn, elasticity, delay):
    """A plant in which the spread is a power of the temperature, another one at every step."""
    control = TemperatureControl(target())
    sensitivity = np.array([0.6, 0.5, 0.4])
    used = [control.temperatures]
    for _ in range(150):
        taus = used[max(len(used) - 1 - delay, 0)]
        spreads = sensitivity * np.array(taus[:3]) ** elasticity
        control.follow([group_with(drawn, taus, (9.0, *spreads))], WEIGHTS)
        used.append(control.temperatures)
    reached = sensitivity * np.array(used[-1][:3]) ** elasticity
    np.testing.assert_allclose(reached, 0.3, rtol=0.02)
    assert used[-1][3] == pytest.approx(0.5)  # a step without density stays


def test_it_stays_within_its_bounds_and_moves_by_steps(drawn):
    control = TemperatureControl(target(gain=1.0, maximum=0.8, minimum=0.4))
    control.follow([group_with(drawn, (0.5,) * 4, (0.0,) * 4)], WEIGHTS)
    assert control.temperatures[:3] == pytest.approx((0.8,) * 3)  # no spread wants twice as much, not infinity
    control.follow([group_with(drawn, (0.5,) * 4, (0.5,) * 4)], WEIGHTS)
    assert control.temperatures[:3] == pytest.approx((0.4,) * 3)


def test_a_learner_moves_its_temperatures_and_goes_on_from_its_tensors():
    options = {"spread": target(), "rate": 0.0}
    groups = [draw_group(adapted_policy(), ordinal) for ordinal in range(3)]
    learner = Learner(adapted_policy(), spec(**options))
    assert learner.temperatures == pytest.approx((0.5,) * 4)
    learner.update(groups, guard=True)
    after = learner.temperatures
    assert after[:3] != pytest.approx((0.5,) * 3, abs=1e-3)
    resumed = Learner(adapted_policy(), spec(**options))
    resumed.load(learner.tensors(), 1)
    assert resumed.temperatures == after
    assert Learner(adapted_policy(), spec()).temperatures == ()
