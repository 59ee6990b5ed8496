import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from rollout.kernel import build_process
from rollout.lora import ADAPTER
from rollout.policies.build import PolicySpec, load_policy
from rollout.policies.stock import ADAPTER_FILE
from rollout.sampler import named_noise, sample
from rollout.trained import digest_tensors, train_everything, trained_tensors
from rollout.types import Behaviour
from tests.rollout.policies.family_checks import adapt

PROMPTS = ["a cat", "red dog"]
ABSENT = {"text_encoder_3": None, "tokenizer_3": None}


def load(folder, **options):
    return load_policy(PolicySpec(folder=folder, max_sequence_length=6, **options))


def draw(policy):
    how = Behaviour(sigmas=(1.0, 0.5, 0.0), temperatures=(0.0, 0.0), height=8, width=16)
    noise = named_noise(policy, how, 1, 2, (0, 1))
    return sample(policy, policy.encode(PROMPTS), build_process(how.sigmas, how.temperatures), noise)


@pytest.mark.parametrize(("stored", "asked"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_the_network_has_the_dtype_asked_for_whatever_its_file_holds(without_t5, tmp_path, stored, asked):
    pipe = StableDiffusion3Pipeline.from_pretrained(without_t5, local_files_only=True, **ABSENT)
    pipe.to(getattr(torch, stored)).save_pretrained(tmp_path)
    network = load(tmp_path, dtype=asked).network
    assert {parameter.dtype for parameter in network.parameters()} == {getattr(torch, asked)}


def test_a_fully_trained_network_is_saved_as_the_pipelines_transformer(without_t5, tmp_path):
    policy = load(without_t5)
    train_everything(policy.network)
    with torch.no_grad():
        for parameter in trained_tensors(policy.network).values():
            parameter.mul_(1.1)
    policy.save_trained(tmp_path)
    saved = SD3Transformer2DModel.from_pretrained(tmp_path / "transformer", local_files_only=True)
    assert digest_tensors(dict(saved.named_parameters())) == digest_tensors(trained_tensors(policy.network))


@pytest.mark.parametrize("place", ["", ADAPTER_FILE])
def test_a_saved_adapter_is_loaded_from_its_folder_or_its_file(without_t5, tmp_path, place):
    first, second = adapt(load(without_t5), seed=1), adapt(load(without_t5), seed=2)
    first.save_trained(tmp_path)
    second.load_adapter(tmp_path / place)
    assert digest_tensors(trained_tensors(second.network)) == digest_tensors(trained_tensors(first.network))
    assert torch.equal(draw(second).clean, draw(first).clean)


def test_a_missing_adapter_is_named(without_t5, tmp_path):
    with pytest.raises(ValueError, match=r"expected an adapter at .*; change `model\.init_adapter`"):
        adapt(load(without_t5)).load_adapter(tmp_path)


def test_an_adapter_of_another_rank_is_refused(without_t5, tmp_path):
    adapt(load(without_t5), rank=3).save_trained(tmp_path)
    policy = adapt(load(without_t5))
    before = digest_tensors(trained_tensors(policy.network))
    with pytest.raises(ValueError, match=rf"{ADAPTER_FILE} does not fit: .*lora_A.* should be \(2, .* is \(3, "):
        policy.load_adapter(tmp_path)
    assert digest_tensors(trained_tensors(policy.network)) == before


def test_an_adapter_of_another_strength_is_refused(without_t5, tmp_path):
    adapt(load(without_t5), alpha=12.0).save_trained(tmp_path)
    with pytest.raises(ValueError, match=r"lora_alpha should be 6, is 12; change `model\.lora\.alpha`"):
        adapt(load(without_t5), alpha=6.0).load_adapter(tmp_path)


def test_an_adapter_without_metadata_is_taken_as_it_is(without_t5, tmp_path):
    first, second = adapt(load(without_t5), seed=1), adapt(load(without_t5), seed=2)
    first.save_trained(tmp_path)
    save_file(load_file(tmp_path / ADAPTER_FILE), tmp_path / "bare.safetensors")
    second.load_adapter(tmp_path / "bare.safetensors")
    assert digest_tensors(trained_tensors(second.network)) == digest_tensors(trained_tensors(first.network))


def test_the_saved_file_names_no_adapter(without_t5, tmp_path):
    adapt(load(without_t5)).save_trained(tmp_path)
    assert not any(f".{ADAPTER}." in name for name in load_file(tmp_path / ADAPTER_FILE))
