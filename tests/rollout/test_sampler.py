import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout.kernel import build_process, transition_mean
from rollout.sampler import named_noise, sample
from rollout.schedule import uniform_grid
from rollout.seeding import INITIAL
from rollout.types import Behaviour
from tests.tiny_policies import PointPolicy, TinyPolicy

PROMPTS = ["a cat", "a dog", "a cat"]


def behaviour(taus, height=2, width=3):
    return Behaviour(sigmas=uniform_grid(len(taus)), temperatures=tuple(taus), height=height, width=width)


def draw(policy, prompts, taus, samples=None, **size):
    how = behaviour(taus, **size)
    noise = named_noise(policy, how, 7, 11, range(len(prompts)) if samples is None else samples)
    return sample(policy, policy.encode(prompts), build_process(how.sigmas, how.temperatures), noise)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6))
def test_sampling_an_exact_flow_lands_on_its_image_at_every_temperature(taus):
    policy = PointPolicy()
    clean = draw(policy, PROMPTS, taus).clean
    images = policy.encode(PROMPTS).tensors["image"]
    assert clean.shape == (3, len(taus), 2, 2, 3)
    torch.testing.assert_close(clean, images[:, None].expand_as(clean), atol=1e-5, rtol=0)


class Crowd(PointPolicy):
    """The exact flow of one grey image, large enough to measure noise on."""

    def velocity(self, x, sigma, conditions):
        return (x - 0.25) / sigma.view(-1, 1, 1, 1)


@pytest.mark.parametrize("tau", [0.3, 0.7, 1.0])
def test_states_of_an_exact_flow_carry_the_noise_of_their_level(tau):
    drawn = draw(Crowd(), ["grey"], [tau] * 4, height=100, width=100)
    for action, sigma in zip(drawn.trajectory.actions[0], (0.75, 0.5, 0.25), strict=True):
        assert float(action.mean()) == pytest.approx((1.0 - sigma) * 0.25, abs=0.03)
        assert float(action.std()) == pytest.approx(sigma, rel=0.03)


@pytest.mark.parametrize("taus", [(1.0, 1.0, 1.0), (0.9, 0.6, 0.3, 0.3), (1.0, 0.0, 0.5, 1.0)])
def test_an_action_is_the_mean_at_its_state_plus_the_stored_noise(taus):
    policy = TinyPolicy()
    trajectory = draw(policy, PROMPTS, taus).trajectory
    process = build_process(behaviour(taus).sigmas, taus)
    assert trajectory.transitions == tuple(k for k, tau in enumerate(taus[:-1]) if tau > 0.0)
    for place, step in enumerate(trajectory.transitions):
        transition, x = process[step], trajectory.states[:, place]
        v = policy.velocity(x, torch.full((3,), transition.sigma), policy.encode(PROMPTS))
        mean = transition_mean(x, v, transition.state_gain, transition.velocity_gain)
        expected = mean + transition.std * trajectory.noise[:, place]
        torch.testing.assert_close(trajectory.actions[:, place], expected, atol=1e-6, rtol=1e-6)


def test_the_next_state_is_the_action_and_the_first_state_is_the_initial_noise():
    policy = TinyPolicy()
    noise = named_noise(policy, behaviour((1.0,) * 4), 7, 11, range(3))
    trajectory = draw(policy, PROMPTS, (1.0,) * 4).trajectory
    assert torch.equal(trajectory.states[:, 0], noise(INITIAL))
    assert torch.equal(trajectory.states[:, 1:], trajectory.actions[:, :-1])
    for place, step in enumerate(trajectory.transitions):
        assert torch.equal(trajectory.noise[:, place], noise(step))


def test_the_last_one_step_sample_is_where_the_process_ends():
    policy, taus = TinyPolicy(), (0.8, 0.8, 0.8)
    drawn = draw(policy, PROMPTS, taus)
    last, x = build_process(behaviour(taus).sigmas, taus)[-1], drawn.trajectory.actions[:, -1]
    v = policy.velocity(x, torch.full((3,), last.sigma), policy.encode(PROMPTS))
    end = transition_mean(x, v, last.state_gain, last.velocity_gain)
    torch.testing.assert_close(drawn.clean[:, -1], end, atol=1e-6, rtol=1e-6)


def test_temperature_0_stores_no_transition():
    drawn = draw(TinyPolicy(), PROMPTS, (0.0, 0.0))
    assert drawn.trajectory.transitions == ()
    assert drawn.trajectory.states.shape == (3, 0, 2, 2, 3)


@pytest.mark.parametrize("samples", [[0], [2, 1], [1, 2, 0]])
def test_a_sample_does_not_depend_on_who_shares_its_batch(samples):
    everyone = draw(TinyPolicy(), PROMPTS, (1.0, 0.5, 0.5))
    some = draw(TinyPolicy(), [PROMPTS[i] for i in samples], (1.0, 0.5, 0.5), samples)
    torch.testing.assert_close(some.clean, everyone.clean[samples], atol=1e-6, rtol=1e-6)
    assert torch.equal(some.trajectory.noise, everyone.trajectory.noise[samples])


def test_sampling_records_no_gradient():
    drawn = draw(TinyPolicy(), PROMPTS, (1.0, 1.0))
    assert not drawn.clean.requires_grad
    assert not drawn.trajectory.actions.requires_grad
