import numpy as np
import pytest
import torch

from rollout.policies.build import PolicySpec, load_policy
from services.cli.run_file import load_run_file
from tests.second_family import networks
from tests.second_family.base import COLOURS, batch, build_pipeline, clean_latents, recipe
from tests.second_family.study import HERE, table


@pytest.fixture(scope="module")
def pipeline():
    """The pipeline as it is before training, with statistics that are not the identity."""
    torch.manual_seed(0)
    vae = networks.build_autoencoder().eval()
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 4.0)
    return build_pipeline(vae)


@pytest.fixture(scope="module")
def policy(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("second_family")
    pipeline.save_pretrained(folder)
    return load_policy(PolicySpec(folder=folder, max_sequence_length=networks.MAX_SEQUENCE_LENGTH))


def test_every_word_and_every_digit_of_a_prompt_is_one_token():
    tokenizer = networks.build_tokenizer()
    for colour in COLOURS:
        assert tokenizer.tokenize(f"write 42 in {colour}") == [
            "write",
            networks.SPACE,
            "4",
            "2",
            f"{networks.SPACE}in",
            f"{networks.SPACE}{colour}",
        ]


def test_what_the_flow_learns_is_what_the_policy_decodes(pipeline, policy):
    pictures = recipe.as_tensor(batch(4, np.random.default_rng(0), 0.0)[1])
    torch.manual_seed(1)
    x0 = clean_latents(pipeline.vae, pictures)
    torch.manual_seed(1)
    with torch.no_grad():
        z = pipeline.vae.encode(pictures).latent_dist.sample()
        expected = ((pipeline.vae.decode(z).sample / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
    assert x0.shape == policy.initial_latents([1, 2, 3, 4], 16, 32).shape
    assert (policy.decode(x0).int() - expected.int()).abs().max() <= 1


def test_the_stock_scheduler_walks_the_grid_of_the_run(policy):
    config = load_run_file(HERE / "run.yaml", [])
    assert policy.sigmas(4, 16, 32) == pytest.approx(config.sampling.sigmas)


def test_the_table_tells_the_gain_of_every_run():
    record = {
        "title": "seed 1",
        "images": 9600,
        "seconds": 61.4,
        "curve": [{"serving": 0.4}, {"serving": 0.9, "tau_0": 0.8, "judge_serving": 0.7, "evaluated": 1000}],
    }
    assert table([record]).splitlines()[2] == (
        "| seed 1 | 0.400 -> 0.900 [0.880, 0.917] | +0.500 | 0.800 | 0.700 | 1000 | 9600 | 61 s |"
    )
