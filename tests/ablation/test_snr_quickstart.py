import math

import numpy as np
import torch

from tests.ablation.snr_quickstart import (
    config_of,
    cosine,
    gradients,
    groups_needed,
    progress,
    second_moments,
    signal_and_noise,
    trained,
)

MEAN = np.zeros(40, dtype=np.float32)
MEAN[:4] = 1.0  # |mean|^2 = 4


def drawn(count: int, noise: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return MEAN + noise * rng.standard_normal((count, len(MEAN))).astype(np.float32)


def gram(gradients: np.ndarray) -> np.ndarray:
    return (gradients @ gradients.T).astype(np.float64)


def test_equal_gradients_are_all_signal() -> None:
    assert signal_and_noise(gram(drawn(5, 0.0, 0))) == (4.0, 0.0)


def test_signal_and_noise_are_found_without_bias() -> None:
    found = np.array([signal_and_noise(gram(drawn(16, 1.0, seed))) for seed in range(400)])
    error = found.std(0) / 20.0
    assert (abs(found.mean(0) - (4.0, 40.0)) < 4.0 * error).all()


def test_groups_needed_is_the_noise_of_one_group_over_the_signal_and_knows_how_sure_it_is() -> None:
    needed, half = groups_needed(gram(drawn(400, 1.0, 1)), 2)  # each gradient is of two groups: 80 / 4
    assert abs(math.log(needed / 20.0)) < 2.0 * half
    assert half < 0.5
    assert math.isclose(groups_needed(9.0 * gram(drawn(400, 1.0, 1)), 2)[0], needed)


def test_without_a_signal_no_number_of_groups_is_enough() -> None:
    at_right_angles = np.eye(4)
    assert groups_needed(at_right_angles, 2)[0] == math.inf


def test_the_cosine_of_two_noisy_sets_of_one_mean_is_one() -> None:
    assert abs(cosine(drawn(400, 1.0, 2), drawn(400, 1.0, 3)) - 1.0) < 0.1
    assert abs(cosine(drawn(400, 1.0, 2), -drawn(400, 1.0, 3)) + 1.0) < 0.1


def test_progress_is_a_steps_way_along_the_goal_over_its_noise_in_the_optimizers_own_units() -> None:
    goal = np.tile(MEAN, (3, 1))
    plain, error = progress(drawn(400, 1.0, 4), goal, np.ones(len(MEAN)))
    assert abs(plain - 4.0 / math.sqrt(40.0)) < 4.0 * error  # |mean| = 2 over 4 of 40 numbers, each with noise 1
    moments = np.full(len(MEAN), 1e-6)
    moments[:4] = 1.0  # the optimizer takes long steps where there is nothing but noise
    assert progress(drawn(400, 1.0, 4), goal, moments)[0] < 0.01 * plain
    assert progress(-drawn(400, 1.0, 4), goal, moments)[0] < 0.0


def test_a_sure_step_across_the_goal_makes_no_progress() -> None:
    across = np.zeros((3, len(MEAN)), dtype=np.float32)
    across[:, -1] = 1.0
    found, error = progress(drawn(400, 0.1, 5), across, np.ones(len(MEAN)))
    assert abs(found) < 4.0 * error


def test_second_moments_are_the_optimizers_parameter_by_parameter_and_ones_before_its_first_step() -> None:
    weights = {"a": torch.zeros(2, 1), "b": torch.zeros(1)}
    assert (second_moments({"trained": weights, "optimizer": {}}) == np.ones(3)).all()
    kept = {"a/exp_avg_sq": torch.tensor([[1.0], [2.0]]), "a/exp_avg": torch.zeros(2, 1), "a/step": torch.tensor(1.0)}
    kept["b/exp_avg_sq"] = torch.tensor([3.0])
    assert (second_moments({"trained": weights, "optimizer": kept}) == [1.0, 2.0, 3.0]).all()


def test_an_updates_gradient_is_the_mean_of_its_transitions_own() -> None:
    config = config_of("step_aware", 1.0, ["sampling.samples_per_group=4"])
    found = gradients(config, range(3, 5), {}, trained(config, 0), transitions=True)
    whole, *parts = found.values()
    assert whole.shape[0] == 2
    assert len(parts) == 3
    assert np.abs(whole).max() > 0.0
    np.testing.assert_allclose(np.mean(parts, axis=0), whole, rtol=1e-3, atol=1e-6)
