import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler
from hypothesis import given
from hypothesis import strategies as st

from rollout.kernel import (
    GAIN_TO_STD_MAX,
    STD_MIN,
    annealed,
    build_process,
    one_step_sample,
    trained_transitions,
    transition_mean,
)
from rollout.schedule import TEMPERATURE_MAX

GRID = (1.0, 0.9, 0.6, 0.25, 0.0)
taus = st.floats(0.0, 1.0)


@st.composite
def falls(draw):
    """A pair of noise levels, the second at least 0.001 below the first."""
    sigma = draw(st.floats(0.001, 1.0))
    return sigma, sigma * draw(st.floats(0.0, 1.0)) * (1.0 - 0.001 / sigma) if sigma > 0.001 else 0.0


def draw_states(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x, v, z = (torch.randn(3, 4, 2, 2, generator=generator, dtype=dtype) for _ in range(3))
    return x, v, z


def mean_of(transition, x, v):
    return transition_mean(x, v, transition.state_gain, transition.velocity_gain)


@given(falls(), taus)
def test_the_mean_mixes_the_clean_prediction_with_the_kept_part_of_the_predicted_noise(levels, tau):
    (s, s_next), (x, v, _) = levels, draw_states(dtype=torch.float64)
    x0_hat, eps_hat = x - s * v, x + (1.0 - s) * v
    transition = annealed(0, s, s_next, tau)
    expected = (1.0 - s_next) * x0_hat + s_next * math.sqrt(1.0 - tau**2) * eps_hat
    torch.testing.assert_close(mean_of(transition, x, v), expected, atol=1e-9, rtol=0)
    assert transition.std == pytest.approx(s_next * tau)
    torch.testing.assert_close(one_step_sample(x, v, s), x0_hat)


@given(falls())
def test_temperature_0_is_the_euler_step_without_noise(levels):
    (s, s_next), (x, v, _) = levels, draw_states()
    transition = annealed(0, s, s_next, 0.0)
    torch.testing.assert_close(mean_of(transition, x, v), x + (s_next - s) * v, atol=1e-6, rtol=1e-6)
    assert transition.std == 0.0


@pytest.mark.parametrize("step", range(4))
def test_temperature_1_is_the_stochastic_euler_scheduler_of_diffusers(step):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, stochastic_sampling=True)
    scheduler.set_timesteps(sigmas=list(GRID[:-1]))
    scheduler.set_begin_index(step)
    x, v, _ = draw_states()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step)
        stock = scheduler.step(v, scheduler.timesteps[step], x, return_dict=False)[0]
        torch.manual_seed(step)
        z = torch.randn_like(x)
    transition = build_process(GRID, (1.0,) * 4)[step]
    torch.testing.assert_close(mean_of(transition, x, v) + transition.std * z, stock, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("step", range(4))
def test_temperature_1_is_the_consistency_scheduler_of_diffusers(step):
    scheduler = FlowMatchLCMScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=list(GRID[:-1]))
    scheduler.set_begin_index(step)
    x, v, _ = draw_states()
    stock = scheduler.step(
        v, scheduler.timesteps[step], x, generator=torch.Generator().manual_seed(step), return_dict=False
    )[0]
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(step))
    transition = build_process(GRID, (1.0,) * 4)[step]
    torch.testing.assert_close(mean_of(transition, x, v) + transition.std * z, stock, atol=1e-6, rtol=1e-6)


@given(falls(), st.floats(0.0, 1.0))
def test_a_temperature_of_sin_eta_is_coefficients_preserving_sampling(levels, eta):
    (s, s_next), (x, v, z) = levels, draw_states()
    x0_hat, eps_hat = x - s * v, x + (1.0 - s) * v
    angle = eta * math.pi / 2.0
    cps = (1.0 - s_next) * x0_hat + s_next * math.cos(angle) * eps_hat + s_next * math.sin(angle) * z
    transition = annealed(0, s, s_next, math.sin(angle))
    torch.testing.assert_close(mean_of(transition, x, v) + transition.std * z, cps, atol=2e-6, rtol=1e-6)


@given(falls(), taus)
def test_an_exact_model_keeps_the_coefficients_of_image_and_noise_at_every_temperature(levels, tau):
    s, s_next = levels
    transition = annealed(0, s, s_next, tau)

    def mean(x0, eps):
        return transition.state_gain * ((1.0 - s) * x0 + s * eps) + transition.velocity_gain * (eps - x0)

    assert mean(1.0, 0.0) == pytest.approx(1.0 - s_next, abs=1e-9)
    assert mean(0.0, 1.0) ** 2 + transition.std**2 == pytest.approx(s_next**2, abs=1e-9)


@given(falls(), st.floats(1.0, TEMPERATURE_MAX))
def test_above_temperature_1_nothing_of_the_old_noise_stays_and_the_new_is_more_than_the_flow_has(levels, tau):
    (s, s_next), (x, v, _) = levels, draw_states(dtype=torch.float64)
    transition = annealed(0, s, s_next, tau)
    torch.testing.assert_close(mean_of(transition, x, v), (1.0 - s_next) * (x - s * v), atol=1e-9, rtol=0)
    assert transition.std == pytest.approx(tau * s_next)
    assert transition.velocity_gain == pytest.approx(-s * (1.0 - s_next))


@given(falls(), taus)
def test_the_velocity_gain_is_the_derivative_of_the_mean_by_the_velocity(levels, tau):
    (s, s_next), h = levels, 1e-3

    def mean(v):  # of the equations, at x = 0.7
        return (1.0 - s_next) * (0.7 - s * v) + s_next * math.sqrt(1.0 - tau**2) * (0.7 + (1.0 - s) * v)

    assert annealed(0, s, s_next, tau).velocity_gain == pytest.approx((mean(h) - mean(-h)) / (2.0 * h), abs=1e-9)


@given(falls(), taus)
def test_the_velocity_gain_is_never_zero(levels, tau):
    s, s_next = levels
    assert annealed(0, s, s_next, tau).velocity_gain <= -(s - s_next) + 1e-12 < 0.0


def test_a_process_has_one_transition_for_every_temperature():
    process = build_process(GRID, (1.0, 0.5, 0.25, 0.0))
    assert [(t.step, t.sigma, t.sigma_next, t.tau) for t in process] == [
        (0, 1.0, 0.9, 1.0), (1, 0.9, 0.6, 0.5), (2, 0.6, 0.25, 0.25), (3, 0.25, 0.0, 0.0)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="zip"):
        build_process(GRID, (1.0,) * 5)


def test_the_last_transition_and_those_at_temperature_0_are_not_trained():
    assert trained_transitions(build_process(GRID, (1.0,) * 4)) == (0, 1, 2)
    assert trained_transitions(build_process(GRID, (1.0, 0.0, 1.0, 1.0))) == (0, 2)


@pytest.mark.parametrize(
    ("sigmas", "tau", "step"),
    [
        pytest.param((1.0, 0.5, 0.0089, 0.0), 1.0, 1, id="a level next to 0"),
        pytest.param((1.0, 0.9, 0.5, 0.0), 0.02, 0, id="too cold"),
        pytest.param((1.0, 0.5, 0.25, 0.0), 0.05, 0, id="a mean that moves more than 10 standard deviations"),
    ],
)
def test_a_transition_too_narrow_to_learn_from_is_named_with_its_step_sigma_and_tau(sigmas, tau, step):
    transition = build_process(sigmas, (tau,) * 3)[step]
    assert transition.std < STD_MIN or abs(transition.velocity_gain) / transition.std > GAIN_TO_STD_MAX
    with pytest.raises(ValueError, match=r"cannot be trained.*`sampling`") as caught:
        trained_transitions(build_process(sigmas, (tau,) * 3))
    said = str(caught.value)
    assert f"step {step} " in said
    assert f"sigma {sigmas[step]:.4g} -> {sigmas[step + 1]:.4g}" in said
    assert f"tau {tau:.4g}" in said


@pytest.mark.parametrize(("sigmas", "tau"), [((1.0, 0.0), 1.0), ((1.0, 0.5, 0.0), 0.0)])
def test_a_process_without_any_density_cannot_be_trained(sigmas, tau):
    with pytest.raises(ValueError, match="no transition has a density"):
        trained_transitions(build_process(sigmas, (tau,) * (len(sigmas) - 1)))
