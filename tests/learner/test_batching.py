from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from learner.advantage import build_credit
from learner.batching import alike, build_pairs, rows_of_each
from learner.combination import Weighting, group_advantages
from learner.loss import behaviour_means
from rollout.kernel import build_process
from rollout.policy import Conditions
from tests.tiny_groups import adapted_policy, behaviour, draw_group, draw_groups, with_trajectory

TERMINAL = build_credit("terminal", 1.0, 1.0, 0.0, "group")


def test_pairs_are_ordered_by_group_sample_and_transition():
    policy = adapted_policy()
    groups = draw_groups(policy, 2, num_samples=3)
    tables = [np.arange(9.0).reshape(3, 3) + 100 * index for index in range(2)]
    pairs = build_pairs(groups, tables)
    assert len(pairs) == 18
    assert pairs.step.tolist() == [0, 1, 2] * 6
    assert pairs.prompt.tolist() == [0] * 9 + [1] * 9
    assert pairs.advantage.tolist() == [*range(9), *range(100, 109)]
    row = 9 + 1 * 3 + 2
    trajectory = groups[1].group.trajectory
    assert torch.equal(pairs.states[row], trajectory.states[1, 2])
    assert torch.equal(pairs.actions[row], trajectory.actions[1, 2])
    assert torch.equal(pairs.noise[row], trajectory.noise[1, 2])


def test_every_pair_carries_its_own_behaviours_transition():
    policy = adapted_policy()
    groups = [draw_group(policy, 0, how=behaviour(4, 0.9)), draw_group(policy, 1, how=behaviour(2, 0.5))]
    pairs = build_pairs(groups, group_advantages(groups, TERMINAL, {"brightness": Weighting()}, 1))
    assert pairs.step.tolist() == [0, 1, 2] * 4 + [0] * 4
    for row, group in ((1, groups[0]), (12, groups[1])):
        how = group.group.behaviour
        expected = build_process(how.sigmas, how.temperatures)[int(pairs.step[row])]
        for name in ("sigma", "state_gain", "velocity_gain", "std"):
            assert float(getattr(pairs, name)[row]) == pytest.approx(getattr(expected, name))


def test_honest_pairs_give_back_the_policys_own_means():
    policy = adapted_policy()
    groups = draw_groups(policy, 2)
    pairs = build_pairs(groups, group_advantages(groups, TERMINAL, {"brightness": Weighting()}, 1))
    conditions = policy.encode([group.group.prompt.text for group in groups]).take(pairs.prompt)
    with torch.no_grad():
        v = policy.velocity(pairs.states, pairs.sigma, conditions)
    gains = (pairs.state_gain.view(-1, 1, 1, 1), pairs.velocity_gain.view(-1, 1, 1, 1))
    torch.testing.assert_close(behaviour_means(pairs), gains[0] * pairs.states + gains[1] * v, atol=1e-5, rtol=1e-5)


def test_half_precision_latents_become_float32():
    (scored,) = draw_groups(adapted_policy(), 1)
    half = replace(scored.group.trajectory, states=scored.group.trajectory.states.half())
    pairs = build_pairs([replace(scored, group=replace(scored.group, trajectory=half))], [np.zeros((4, 3))])
    assert pairs.states.dtype == torch.float32


def test_taking_rows_takes_them_of_every_column():
    pairs = build_pairs(draw_groups(adapted_policy(), 1), [np.arange(12.0).reshape(4, 3)])
    taken = pairs.take(torch.tensor([5, 2]))
    assert taken.advantage.tolist() == [5.0, 2.0]
    for field in fields(pairs):
        assert torch.equal(getattr(taken, field.name), getattr(pairs, field.name)[[5, 2]])


def test_groups_share_a_stack_where_their_latents_and_their_conditions_have_the_same_shapes():
    groups = draw_groups(adapted_policy(), 4)
    wide = with_trajectory(groups[1], states=torch.zeros(4, 3, 2, 2, 5))
    long, short = (Conditions({"tokens": torch.zeros(1, length, 8)}) for length in (7, 5))
    assert alike([groups[0], wide, groups[2], groups[3]], [long, long, short, long]) == [[0, 3], [1], [2]]
    assert alike(groups, [long] * 4) == [[0, 1, 2, 3]]


def test_rows_of_one_long_table_are_rows_of_its_parts_in_the_same_order():
    parts = rows_of_each(torch.tensor([6, 0, 3, 5, 2]), [3, 0, 4])
    assert [part.tolist() for part in parts] == [[0, 2], [], [3, 0, 2]]
