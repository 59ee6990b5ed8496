import numpy as np
import pytest
import torch

from learner.batching import build_pairs
from learner.combination import Weighting, group_advantages
from learner.loss import Objective
from learner.nft import NegativeAware, forward_pairs, nft_loss
from learner.update import Learner
from rollout.schedule import uniform_grid
from rollout.types import Behaviour
from tests.tiny_groups import adapted_policy, draw_group, fingerprint, spec, with_values

ALONE = {"brightness": Weighting()}


def floor(num_steps=3):
    return Behaviour(
        sigmas=uniform_grid(num_steps),
        temperatures=(0.9,) * num_steps,
        height=2,
        width=3,
        last_step="floor",
        last_std=0.1,
    )


def bright(clean):
    return clean.flatten(2).mean(2)


def draw(policy, count=3, first=0, num_samples=4):
    return [draw_group(policy, ordinal, num_samples, floor(), bright) for ordinal in range(first, first + count)]


def test_every_final_image_is_noised_anew_at_every_level_of_its_grid():
    groups = draw(adapted_policy())
    tables = group_advantages(groups, spec().credit, ALONE, 1)
    pairs = forward_pairs(groups, tables, 5)
    finals = torch.stack([group.group.trajectory.actions[:, -1] for group in groups])
    torch.testing.assert_close(pairs.actions.view(3, 4, 3, *finals.shape[2:])[:, :, 1], finals)
    s = pairs.sigma.view(-1, 1, 1, 1)
    torch.testing.assert_close(pairs.states, (1 - s) * pairs.actions + s * pairs.noise)
    np.testing.assert_allclose(
        pairs.advantage.view(3, 4, 3).numpy(), np.stack([np.repeat(t[:, -1:], 3, 1) for t in tables]), rtol=1e-6
    )
    assert torch.equal(pairs.noise, forward_pairs(groups, tables, 5).noise)
    assert not torch.equal(pairs.noise, forward_pairs(groups, tables, 6).noise)


def test_the_loss_is_the_papers():
    groups = draw(adapted_policy())
    pairs = forward_pairs(groups, group_advantages(groups, spec().credit, ALONE, 1), 0)
    generator = torch.Generator().manual_seed(0)
    v, old = (torch.randn(pairs.states.shape, generator=generator) for _ in range(2))
    how = NegativeAware(strength=0.7, advantage_max=1.5)
    found = nft_loss(pairs, v, old, how).loss
    for row in (0, 7, 20):
        star = pairs.noise[row] - pairs.actions[row]
        q = min(max(0.5 + float(pairs.advantage[row]) / 3.0, 0.0), 1.0)
        plus, minus = 0.3 * old[row] + 0.7 * v[row], 1.7 * old[row] - 0.7 * v[row]
        expected = q * (plus - star).square().mean() + (1 - q) * (minus - star).square().mean()
        assert float(found[row]) == pytest.approx(float(expected), rel=1e-5)


def test_at_the_old_policy_the_gradient_is_the_advantage_weighted_pull_towards_the_image():
    groups = draw(adapted_policy())
    pairs = forward_pairs(groups, group_advantages(groups, spec().credit, ALONE, 1), 0)
    v = torch.randn(pairs.states.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = nft_loss(pairs, v, v, NegativeAware(advantage_max=5.0)).loss.sum()
    (gradient,) = torch.autograd.grad(loss, v)
    size = v[0].numel()
    expected = 2.0 / size * (pairs.advantage / 5.0).view(-1, 1, 1, 1) * (v - (pairs.noise - pairs.actions))
    torch.testing.assert_close(gradient, expected.detach(), atol=1e-6, rtol=1e-4)


def test_updates_raise_the_reward():
    learner = Learner(adapted_policy(), spec(nft=NegativeAware(), rate=3e-2))
    finals = []
    for index in range(25):
        report = learner.update(draw(learner.policy, 4, 4 * index, 8), guard=True)
        finals.append(report.rewards["brightness"].mean[-1])
    assert np.mean(finals[-3:]) > np.mean(finals[:3]) + 0.3


def test_saturated_groups_teach_nothing_and_no_guard_is_claimed():
    groups = [with_values(group, np.full((4, 4), 0.5)) for group in draw(adapted_policy())]
    learner = Learner(adapted_policy(), spec(nft=NegativeAware()))
    before = fingerprint(learner)["trained"]
    report = learner.update(groups, guard=True)
    assert report.skipped_fraction == 1.0
    assert np.isnan(report.guard_drift)
    assert fingerprint(learner)["trained"] == before


def test_it_is_another_gradient_than_the_objectives():
    groups = draw(adapted_policy())
    one, other = Learner(adapted_policy(), spec(nft=NegativeAware())), Learner(adapted_policy(), spec())
    one.update(groups, guard=True)
    other.update(groups, guard=True)
    assert fingerprint(one)["trained"] != fingerprint(other)["trained"]
    assert len(build_pairs(groups, group_advantages(groups, spec(objective=Objective()).credit, ALONE, 1))) == 36
