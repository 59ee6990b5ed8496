import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal

from learner.loss import log_ratio
from rollout.baselines import dance_sde, flow_cps, flow_sde
from rollout.kernel import annealed, trained_transitions, transition_mean
from rollout.process import KERNELS, process_of
from rollout.schedule import uniform_grid
from rollout.types import Behaviour
from tests.rollout.test_kernel import draw_states, falls, mean_of


@st.composite
def noisy_falls(draw):
    """A pair of noise levels, neither at an end of the grid."""
    sigma = draw(st.floats(0.1, 0.95))
    return sigma, sigma * draw(st.floats(0.05, 0.9))


@given(falls(), st.sampled_from(sorted(KERNELS)))
def test_at_temperature_0_every_kernel_is_the_euler_step(levels, name):
    (s, s_next), (x, v, _) = levels, draw_states(dtype=torch.float64)
    transition = KERNELS[name](0, s, s_next, 0.0)
    torch.testing.assert_close(mean_of(transition, x, v), x + (s_next - s) * v, atol=1e-9, rtol=1e-9)
    assert transition.std == 0.0


@given(st.floats(0.05, 1.0), st.floats(0.05, 1.0), st.sampled_from(sorted(KERNELS)))
def test_into_sigma_0_every_kernel_lands_on_its_clean_prediction(sigma, tau, name):
    x, v, _ = draw_states(dtype=torch.float64)
    transition = KERNELS[name](0, sigma, 0.0, tau)
    torch.testing.assert_close(mean_of(transition, x, v), x - sigma * v, atol=1e-9, rtol=1e-9)
    assert transition.std == 0.0


@given(noisy_falls(), st.floats(0.1, 1.0))
def test_flow_sde_is_flow_grpos_step(levels, a):
    """sd3_sde_with_logprob, in its own terms."""
    (s, s_next), (x, v, _) = levels, draw_states(dtype=torch.float64)
    dt, std_dev = s_next - s, math.sqrt(s / (1.0 - s)) * a
    mean = x * (1.0 + std_dev**2 / (2.0 * s) * dt) + v * (1.0 + std_dev**2 * (1.0 - s) / (2.0 * s)) * dt
    transition = flow_sde(0, s, s_next, a)
    torch.testing.assert_close(mean_of(transition, x, v), mean, atol=1e-9, rtol=1e-9)
    assert transition.std == pytest.approx(std_dev * math.sqrt(-dt))


def test_at_sigma_1_flow_sde_takes_the_next_noise_level_for_its_singular_coefficient():
    transition = flow_sde(0, 1.0, 0.75, 0.7)
    assert transition.std == pytest.approx(0.7 * math.sqrt(1.0 / 0.25) * 0.5)


@given(noisy_falls(), st.floats(0.1, 1.0))
def test_dance_sde_is_dancegrpos_step(levels, eta):
    """flux_step with sde_solver, in its own terms: the score pulls with eta^2 / 2, the noise is eta sqrt(dt)."""
    (s, s_next), (x, v, _) = levels, draw_states(dtype=torch.float64)
    score = -(x - (x - s * v) * (1.0 - s)) / s**2
    mean = x + (s_next - s) * v - 0.5 * eta**2 * score * (s_next - s)
    transition = dance_sde(0, s, s_next, eta)
    torch.testing.assert_close(mean_of(transition, x, v), mean, atol=1e-9, rtol=1e-9)
    assert transition.std == pytest.approx(eta * math.sqrt(s - s_next))


@given(noisy_falls(), st.floats(0.0, 1.0))
def test_flow_cps_is_the_annealed_kernel_at_the_sine(levels, eta):
    cps, ours = flow_cps(0, *levels, eta), annealed(0, *levels, math.sin(eta * math.pi / 2.0))
    assert (cps.state_gain, cps.velocity_gain, cps.std) == (ours.state_gain, ours.velocity_gain, ours.std)
    assert cps.tau == eta  # a group says what the run file says


def variance_error(kernel, tau, num_steps, start=0.95, spread=0.5):
    """How far x[K] of data N(0, spread^2), drawn with the exact model from noise level `start`, is from that variance,
    relatively. From 1 no grid is fine enough for Flow-SDE: its first step draws noise of its level whatever dt is.
    """
    grid = [start * level for level in uniform_grid(num_steps)]
    variance = (1.0 - start) ** 2 * spread**2 + start**2
    for step, (s, s_next) in enumerate(pairwise(grid)):
        slope = (s - (1.0 - s) * spread**2) / ((1.0 - s) ** 2 * spread**2 + s**2)  # E[eps - x0 | x] = slope x
        t = kernel(step, s, s_next, tau)
        variance = (t.state_gain + t.velocity_gain * slope) ** 2 * variance + t.std**2
    return variance / spread**2 - 1.0


@pytest.mark.parametrize("kernel", [flow_sde, dance_sde])
@pytest.mark.parametrize("tau", [0.3, 0.7])
def test_the_sdes_keep_the_marginals_of_the_flow_as_the_grid_gets_finer(kernel, tau):
    coarse, fine = variance_error(kernel, tau, 2000), variance_error(kernel, tau, 4000)
    assert abs(coarse) < 0.01
    assert abs(fine) < 0.65 * abs(coarse)


@pytest.mark.parametrize(("s", "s_next", "excess"), [(1.0, 0.75, 0.15), (0.75, 0.5, 0.32), (0.5, 0.25, 0.49)])
def test_at_4_steps_flow_sde_has_up_to_half_too_much_noise_where_ours_has_none(s, s_next, excess):
    def noise_level(t):  # of x0 = 0: x = s eps, and the exact model's v is eps
        return math.sqrt((t.state_gain * s + t.velocity_gain) ** 2 + t.std**2)

    assert noise_level(flow_sde(0, s, s_next, 0.7)) / s_next - 1.0 == pytest.approx(excess, abs=0.005)
    assert noise_level(annealed(0, s, s_next, 0.7)) == pytest.approx(s_next)
    assert noise_level(flow_cps(0, s, s_next, 0.7)) == pytest.approx(s_next)


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_the_log_ratio_is_that_of_torch_distributions(name):
    behaviour = Behaviour(sigmas=uniform_grid(4), temperatures=(0.7,) * 4, height=2, width=2, kernel=name)
    process = process_of(behaviour)
    assert trained_transitions(process) == (0, 1, 2)
    x, v, z = draw_states(dtype=torch.float64)
    for transition in process[:3]:
        old, new = mean_of(transition, x, v), mean_of(transition, x, v + 0.1 * z.roll(1))
        action = old + transition.std * z
        expected = (Normal(new, transition.std).log_prob(action) - Normal(old, transition.std).log_prob(action)).mean(
            (1, 2, 3)
        )
        std = torch.full((3,), transition.std, dtype=torch.float64)
        torch.testing.assert_close(log_ratio(action, old, new, std, "plain"), expected)


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_a_million_draws_have_the_transitions_mean_and_variance(name):
    transition = KERNELS[name](1, 0.75, 0.5, 0.7)
    x, v = torch.full((1_000_000,), 0.3), torch.full((1_000_000,), -0.8)
    z = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    drawn = transition_mean(x, v, transition.state_gain, transition.velocity_gain) + transition.std * z
    mean = transition.state_gain * 0.3 - transition.velocity_gain * 0.8
    assert float(drawn.mean()) == pytest.approx(mean, abs=4e-3 * transition.std)
    assert float(drawn.var()) == pytest.approx(transition.std**2, rel=6e-3)


@given(falls(), st.floats(0.0, 1.0), st.sampled_from(sorted(KERNELS)))
def test_no_kernel_loses_the_velocity(levels, tau, name):
    s, s_next = levels
    assert KERNELS[name](0, s, s_next, tau).velocity_gain <= -(s - s_next) + 1e-12
