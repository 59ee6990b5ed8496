from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from rollout.schedule import ANNEALING, check_grid, shifted_grid, temperatures, uniform_grid

steps = st.integers(1, 30)
shifts = st.floats(0.1, 12.0)
annealings = st.sampled_from(sorted(ANNEALING))
shares = st.floats(0.0, 1.0)


@given(steps, shifts)
def test_a_grid_starts_at_exactly_1_ends_at_exactly_0_and_falls(num_steps, shift):
    grid = shifted_grid(num_steps, shift)
    check_grid(grid)
    assert len(grid) == num_steps + 1
    assert (grid[0], grid[-1]) == (1.0, 0.0)


@given(steps)
def test_a_uniform_grid_has_equal_steps(num_steps):
    assert uniform_grid(num_steps) == pytest.approx([1.0 - k / num_steps for k in range(num_steps + 1)])


@pytest.mark.parametrize("shift", [1.0, 1.15, 3.0, 7.0])
def test_a_shifted_grid_is_what_the_stock_scheduler_walks_when_it_is_passed_uniform_sigmas(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=list(uniform_grid(4)[:-1]))
    torch.testing.assert_close(scheduler.sigmas, torch.tensor(shifted_grid(4, shift)))


@pytest.mark.parametrize("grid", [(), (1.0,), (0.9, 0.0), (1.0, 0.5), (0.0, 1.0)])
def test_a_grid_that_does_not_go_from_1_to_0_is_refused(grid):
    with pytest.raises(ValueError, match=r"from 1 to 0.*`sampling\.sigmas`"):
        check_grid(grid)


@pytest.mark.parametrize("grid", [(1.0, 0.5, 0.5, 0.0), (1.0, 0.5, 0.7, 0.0), (1.0, float("nan"), 0.5, 0.0)])
def test_a_grid_that_does_not_fall_is_refused_and_the_step_named(grid):
    with pytest.raises(ValueError, match=r"falls strictly; step [01] "):
        check_grid(grid)


@given(annealings, shares, shares, steps, shifts)
def test_temperatures_stay_within_0_and_1_and_between_their_ends(annealing, start, end, num_steps, shift):
    values = temperatures(annealing, start, end, shifted_grid(num_steps, shift))
    assert len(values) == num_steps
    assert all(0.0 <= tau <= 1.0 for tau in values)
    assert all(min(start, end) - 1e-12 <= tau <= max(start, end) + 1e-12 for tau in values)


@given(annealings, shares, shares, steps)
def test_annealed_temperatures_are_monotone(annealing, start, end, num_steps):
    values = temperatures(annealing, start, end, uniform_grid(num_steps))
    rising = 1.0 if end >= start else -1.0
    assert all(rising * (after - before) >= -1e-12 for before, after in pairwise(values))


def test_constant_temperatures_are_all_the_start():
    assert temperatures("constant", 0.7, 0.7, uniform_grid(4)) == (0.7,) * 4


@pytest.mark.parametrize("annealing", ["linear", "cosine"])
def test_annealing_spans_the_transitions_that_carry_noise(annealing):
    values = temperatures(annealing, 1.0, 0.4, uniform_grid(4))
    assert values == pytest.approx((1.0, 0.7, 0.4, 0.4))


def test_the_sigma_annealing_follows_the_noise_level():
    assert temperatures("sigma", 1.0, 0.0, (1.0, 0.8, 0.3, 0.0)) == pytest.approx((1.0, 0.8, 0.3))
