import pytest
import torch

from rollout.branching import network_calls, strides
from rollout.process import process_of
from rollout.sampler import sample
from tests.linear_chain import LinearPolicy, chain_behaviour, gaussian


class CountingPolicy(LinearPolicy):
    rows = 0

    def velocity(self, x, sigma, conditions):
        self.rows += len(x)
        return super().velocity(x, sigma, conditions)


def draw(branching, num_samples=12, **options):
    behaviour = chain_behaviour(branching=branching, **options)
    policy = CountingPolicy(behaviour.sigmas)
    conditions = policy.encode([""]).take([0] * num_samples)
    return sample(policy, conditions, process_of(behaviour), gaussian(num_samples, 0), branching), policy.rows


@pytest.mark.parametrize(
    ("branching", "expected"),
    [((), (1, 1, 1, 1)), ((12,), (1, 1, 1, 1)), ((4, 1, 3), (3, 3, 1, 1)), ((1, 4, 3), (12, 3, 1, 1))],
)
def test_strides_count_the_samples_that_share_a_state(branching, expected):
    assert strides(branching, 12, 3) == expected


@pytest.mark.parametrize("branching", [(4, 4), (2, 2, 3, 1, 1)])
def test_a_branching_that_does_not_make_the_group_is_refused(branching):
    with pytest.raises(ValueError, match=r"branching of .* expected samples_per_group 12 and at most 3 transitions"):
        strides(branching, 12, 3)


@pytest.mark.parametrize("options", [{}, {"last_step": "floor", "last_std": 0.2}, {"last_step": "x0", "last_std": 0.2}])
def test_samples_share_states_until_they_branch_and_shared_states_are_computed_once(options):
    drawn, rows = draw((2, 2, 3), **options)
    assert rows == 2 + 4 + 12 == network_calls((2, 2, 3), 12, 3)
    for column, stride in enumerate((6, 3)):
        state = drawn.trajectory.states[:, column].flatten()
        assert len(state.unique()) == 12 // stride
        assert torch.equal(state, state[::stride].repeat_interleave(stride))
        action = drawn.trajectory.actions[:, column].flatten()
        assert len(action.unique()) == 12 // (3, 1)[column]
    assert len(drawn.clean[:, -1].unique()) == 12


def test_a_group_of_independent_samples_is_the_same_group_with_or_without_a_branching():
    plain, _ = draw(())
    named, _ = draw((12,))
    assert torch.equal(plain.clean, named.clean)
    assert torch.equal(plain.trajectory.actions, named.trajectory.actions)


def test_every_transition_of_a_tree_is_consistent_with_its_stored_noise():
    drawn, _ = draw((2, 2, 3))
    process = process_of(chain_behaviour())
    for column, step in enumerate(drawn.trajectory.transitions):
        x, t = drawn.trajectory.states[:, column], process[step]
        mean = t.state_gain * x + t.velocity_gain * 0.4 * x
        expected = mean + t.std * drawn.trajectory.noise[:, column]
        torch.testing.assert_close(drawn.trajectory.actions[:, column], expected)
