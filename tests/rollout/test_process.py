import pytest
import torch

from rollout.kernel import trained_transitions
from rollout.process import first_image_after, num_images, process_of
from rollout.sampler import sample
from rollout.seeding import INITIAL, environment
from tests.linear_chain import LinearPolicy, chain_behaviour, gaussian


def draw(behaviour, num_samples=5):
    policy = LinearPolicy(behaviour.sigmas)
    conditions = policy.encode([""]).take([0] * num_samples)
    return sample(policy, conditions, process_of(behaviour), gaussian(num_samples, 0), behaviour.branching)


@pytest.mark.parametrize(
    ("last_step", "std", "trained", "images", "first"),
    [("drop", 0.0, (0, 1), 3, 1), ("floor", 0.2, (0, 1, 2), 4, 1), ("x0", 0.2, (0, 1, 2), 3, 0)],
)
def test_the_last_step_decides_what_is_trained_and_how_many_images_there_are(last_step, std, trained, images, first):
    process = process_of(chain_behaviour(last_step=last_step, last_std=std))
    assert trained_transitions(process) == trained
    assert num_images(process) == images
    assert first_image_after(process) == first
    drawn = draw(chain_behaviour(last_step=last_step, last_std=std))
    assert drawn.trajectory.transitions == trained
    assert drawn.clean.shape[1] == images


def test_the_floors_last_image_is_the_action_and_all_others_are_those_of_drop():
    with_floor, plain = draw(chain_behaviour(last_step="floor", last_std=0.2)), draw(chain_behaviour())
    torch.testing.assert_close(with_floor.clean[:, :3], plain.clean)
    torch.testing.assert_close(with_floor.clean[:, 3], with_floor.trajectory.actions[:, -1])
    z = with_floor.trajectory.noise[:, -1]
    torch.testing.assert_close(with_floor.clean[:, 3], plain.clean[:, 2] + 0.2 * z)


def test_in_x0_space_the_images_are_the_actions_and_the_environment_noises_them_again():
    behaviour = chain_behaviour(last_step="x0", last_std=0.3)
    drawn, noise = draw(behaviour), gaussian(5, 0)
    states, actions = drawn.trajectory.states, drawn.trajectory.actions
    torch.testing.assert_close(drawn.clean, actions)
    torch.testing.assert_close(states[:, 0], noise(INITIAL))
    for step, sigma_next in enumerate(behaviour.sigmas[1:-1]):
        expected = (1.0 - sigma_next) * actions[:, step] + sigma_next * noise(environment(step))
        torch.testing.assert_close(states[:, step + 1], expected)
    x0_hat = states[:, 1] - 0.7 * 0.4 * states[:, 1]
    torch.testing.assert_close(actions[:, 1], x0_hat + 0.3 * 0.8 * drawn.trajectory.noise[:, 1])


def test_a_single_step_is_trained_in_x0_space_and_by_a_floor_alone():
    one = {"sigmas": (1.0, 0.0), "taus": (1.0,)}
    assert trained_transitions(process_of(chain_behaviour(**one, last_step="x0", last_std=0.2))) == (0,)
    assert trained_transitions(process_of(chain_behaviour(**one, last_step="floor", last_std=0.2))) == (0,)
    with pytest.raises(ValueError, match=r"no transition has a density.*`last_step: x0`"):
        trained_transitions(process_of(chain_behaviour(**one)))


def test_the_environments_noise_has_names_of_its_own():
    names = [INITIAL, *range(4), *(environment(step) for step in range(4))]
    assert len(set(names)) == len(names)
