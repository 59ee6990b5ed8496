import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout.seeding import INITIAL, named_seed, normal, sample_seeds

SHAPE = (4, 2, 3)


def noise(samples, run_seed=1, ordinal=2, step=0):
    return normal(sample_seeds(run_seed, ordinal, samples, step), SHAPE)


@given(st.permutations(range(6)), st.integers(1, 6))
def test_noise_is_the_same_in_any_batch_and_any_order(order, count):
    everyone = noise(range(6))
    assert torch.equal(noise(order[:count]), everyone[order[:count]])


def test_noise_is_the_same_on_every_machine():
    assert named_seed("noise", 1, 2, 3, 4) == 6032532099083731197
    drawn = normal([named_seed("noise", 1, 2, 3, 4)], (2, 8))
    assert drawn.dtype == torch.float32
    torch.testing.assert_close(drawn[0, 0, :3], torch.tensor([-0.0869557, 0.0970013, -0.5636716]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "names",
    [{"run_seed": 9}, {"ordinal": 9}, {"step": 9}, {"step": INITIAL}, {"samples": [9]}],
    ids=lambda names: next(iter(names)),
)
def test_another_name_gives_other_noise(names):
    here = {"samples": [0], **names}
    assert (noise(**here) - noise([0])).abs().min() > 0.0


def test_every_sample_and_step_of_a_run_has_a_seed_of_its_own():
    seeds = {
        seed for ordinal in range(50) for step in range(INITIAL, 4) for seed in sample_seeds(0, ordinal, range(8), step)
    }
    assert len(seeds) == 50 * 5 * 8


@given(st.lists(st.integers() | st.text("abc"), min_size=1, max_size=3))
def test_a_seed_is_a_non_negative_63_bit_number(names):
    assert 0 <= named_seed(*names) < 2**63


def test_noise_is_standard_normal_and_independent_over_samples():
    drawn = normal(sample_seeds(0, 0, range(400), 0), (100,))
    assert abs(float(drawn.mean())) < 4.0 / drawn.numel() ** 0.5
    assert abs(float(drawn.var()) - 1.0) < 4.0 * (2.0 / drawn.numel()) ** 0.5
    correlation = torch.corrcoef(drawn)
    assert float((correlation - torch.eye(400)).abs().max()) < 0.6


def test_drawing_noise_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    noise([0])
    assert torch.equal(torch.random.get_rng_state(), before)
