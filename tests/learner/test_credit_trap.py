"""The credit trap by simulation, on a chain whose gradient is known in closed form.

x is one number, v = theta_k + C x, the reward is the one-step prediction itself: everything is linear, so that
d E[r_j] / d theta_k is a product of gains.
"""

import numpy as np
import pytest
import torch

from learner.advantage import Rewards, advantages, build_credit
from learner.batching import Pairs
from learner.loss import Objective, pair_loss
from rollout.kernel import build_process, one_step_sample, transition_mean

C, G = 0.4, 40_000
PROCESS = build_process((1.0, 0.7, 0.4, 0.0), (0.9, 0.8, 0.8))
TRANSITIONS = (0, 1)


@pytest.fixture(scope="module")
def chain():
    """G samples: states [G, K], noise [G, T] and rewards [G, K]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(G, generator=generator, dtype=torch.float64)
    states, noises, rewards = [], [], []
    for transition in PROCESS:
        v = C * x
        states.append(x)
        rewards.append(one_step_sample(x, v, transition.sigma))
        z = torch.randn(G, generator=generator, dtype=torch.float64)
        noises.append(z)
        x = transition_mean(x, v, transition.state_gain, transition.velocity_gain) + transition.std * z
    return torch.stack(states, 1), torch.stack(noises, 1), torch.stack(rewards, 1).numpy()


def influence(step, on):
    """d E[r_on] / d theta_step through the states: 0 unless `on` comes later."""
    if on <= step:
        return 0.0
    gain = PROCESS[step].velocity_gain
    for between in PROCESS[step + 1 : on]:
        gain *= between.state_gain + C * between.velocity_gain
    return gain * (1.0 - PROCESS[on].sigma * C)


def pairs_of(chain, step, advantage):
    """The pairs of one transition."""
    (states, noises, _), transition = chain, PROCESS[step]
    x, z = states[:, step], noises[:, step]
    mean = transition_mean(x, C * x, transition.state_gain, transition.velocity_gain)

    def each(value):
        return torch.full((G,), value, dtype=torch.float64)

    return Pairs(
        states=x.view(-1, 1, 1, 1),
        actions=(mean + transition.std * z).view(-1, 1, 1, 1),
        noise=z.view(-1, 1, 1, 1),
        sigma=each(transition.sigma),
        sigma_next=each(transition.sigma_next),
        state_gain=each(transition.state_gain),
        velocity_gain=each(transition.velocity_gain),
        std=each(transition.std),
        advantage=torch.from_numpy(advantage),
        step=torch.full((G,), step),
        prompt=torch.zeros(G, dtype=torch.int64),
        count=torch.ones(G),
    )


def estimates(chain, step, advantage):
    """What the objective's gradient by theta_step is, from every sample: mean and standard error."""
    pairs = pairs_of(chain, step, advantage)
    v = (C * pairs.states).requires_grad_()
    loss = pair_loss(pairs, v, v.detach(), None, Objective(step_weight="none")).loss
    (gradient,) = torch.autograd.grad(-loss.sum(), v)
    return float(gradient.mean()), float(gradient.std()) / G**0.5


def advantage_of(values, step, mode, lam=1.0):
    batch = [Rewards(values, np.ones(3, dtype=bool), TRANSITIONS, 1.0)]
    return advantages(batch, build_credit(mode, lam, 1.0, 0.0, "none"))[0][:, TRANSITIONS.index(step)]


def test_the_chains_influences_are_those_of_its_simulation(chain):
    """Against a second simulation with the same noise, in which theta_0 is not 0."""
    states, noises, rewards = chain
    x, h = states[:, 0], 1e-3
    for transition, z in zip(PROCESS, noises.T, strict=True):
        v = C * x + (h if transition.step == 0 else 0.0)
        if transition.step > 0:
            reward = one_step_sample(x, v, transition.sigma).numpy()
            moved = (reward - rewards[:, transition.step]).mean() / h
            assert moved == pytest.approx(influence(0, transition.step), rel=1e-6)
        x = transition_mean(x, v, transition.state_gain, transition.velocity_gain) + transition.std * z


@pytest.mark.parametrize("step", TRANSITIONS)
@pytest.mark.parametrize(
    ("mode", "lam", "expected"),
    [
        ("terminal", 1.0, lambda k: influence(k, 2)),
        ("gae", 1.0, lambda k: influence(k, 2)),
        ("gae", 0.0, lambda k: influence(k, k + 1)),
        ("gae", 0.5, lambda k: influence(k, 2) * (0.5 if k == 0 else 1.0) + influence(0, 1) * (0.5 if k == 0 else 0.0)),
        ("next", 1.0, lambda k: influence(k, k + 1)),
        ("to_go", 1.0, lambda k: influence(k, 1) + influence(k, 2)),
        ("control_variate", 1.0, lambda k: influence(k, 2)),
        ("gain", 1.0, lambda k: influence(k, k + 1)),
    ],
)
def test_crediting_later_rewards_gives_their_true_gradient(chain, step, mode, lam, expected):
    mean, error = estimates(chain, step, advantage_of(chain[2], step, mode, lam))
    assert abs(expected(step)) > 10.0 * error  # the estimate is sharp enough to tell
    assert mean == pytest.approx(expected(step), abs=4.0 * error)


@pytest.mark.parametrize("step", TRANSITIONS)
def test_crediting_a_steps_own_reward_gives_no_gradient_at_all(chain, step):
    mean, error = estimates(chain, step, advantage_of(chain[2], step, "same_step"))
    assert abs(mean) < 4.0 * error
    assert 10.0 * error < abs(influence(step, step + 1))


@pytest.mark.parametrize("step", TRANSITIONS)
def test_where_the_finals_are_equal_the_baseline_alone_would_be_noise_and_is_left_out(chain, step):
    saturated = chain[2].copy()
    saturated[:, -1] = 1.0
    baseline_alone = saturated[:, -1] - saturated[:, step]
    mean, error = estimates(chain, step, baseline_alone - baseline_alone.mean())
    assert abs(mean) < 4.0 * error
    assert error > 0.0
    assert estimates(chain, step, advantage_of(saturated, step, "gae")) == (0.0, 0.0)


@pytest.mark.parametrize("step", TRANSITIONS)
def test_a_baseline_changes_the_variance_and_not_the_gradient(chain, step):
    with_baseline = estimates(chain, step, advantage_of(chain[2], step, "gae"))
    without = estimates(chain, step, advantage_of(chain[2], step, "terminal"))
    assert with_baseline[0] == pytest.approx(without[0], abs=4.0 * (with_baseline[1] + without[1]))
    assert with_baseline[1] != pytest.approx(without[1], rel=0.01)
