"""The comparison with the stock pipeline that `tafs accept` makes; that it holds is each family's own tests' word."""

from dataclasses import replace

import pytest

from rollout.policies.build import FAMILIES, PolicySpec
from rollout.policies.parity import EXCHANGES, parity
from rollout.policies.twins.build import save_twin

PROMPTS = ("a cat", "a red dog that runs on green grass")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return PolicySpec(folder=save_twin("sd3", tmp_path_factory.mktemp("twin") / "sd3"), max_sequence_length=24)


def test_every_family_can_be_compared() -> None:
    assert set(EXCHANGES) == set(FAMILIES)


def test_a_pipeline_that_draws_the_same_is_no_distance_away(spec) -> None:
    apart = parity(spec, PROMPTS, 2, 16, 32)
    assert apart.largest < 1e-4
    assert apart.mean_share < 1e-4


@pytest.mark.parametrize(
    "wrong",
    [{"from_stock": lambda latents, height, width: -latents}, {"passes_sigmas": False}, {"temperature": 0.5}],
    ids=["sign", "grid", "temperature"],
)
def test_one_that_draws_something_else_is_far_away(spec, wrong, monkeypatch) -> None:
    right = EXCHANGES["StableDiffusion3Pipeline"]
    monkeypatch.setitem(EXCHANGES, "StableDiffusion3Pipeline", replace(right, **wrong))
    assert parity(spec, PROMPTS, 2, 16, 32).mean_share > 0.01
