import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from learner.update import Learner
from rollout.decoding import decode_all
from rollout.kernel import build_process
from rollout.lora import ADAPTER
from rollout.policies.build import PolicySpec, load_policy
from rollout.policies.stock import ADAPTER_FILE, to_images
from rollout.policies.twins.build import TWINS, save_twin
from rollout.sampler import named_noise, sample
from rollout.seeding import INITIAL, sample_seeds
from rollout.trained import digest_tensors, train_everything, trained_tensors
from rollout.types import Behaviour
from tests.rollout.policies.family_checks import adapt
from tests.tiny_groups import draw_group, spec

pytestmark = pytest.mark.integration  # whole pipelines

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


@pytest.fixture(scope="module")
def tiny_decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoencoderTiny(
            latent_channels=4,
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            scaling_factor=1.25,
            shift_factor=0.1,
        ).save_pretrained(folder)
    return folder


def test_previews_are_what_the_stock_pipeline_makes_with_the_tiny_decoder_in_its_place(without_t5, tiny_decoder):
    policy = load(without_t5, tiny_decoder=tiny_decoder)
    pipe = StableDiffusion3Pipeline.from_pretrained(without_t5, local_files_only=True, **ABSENT)
    pipe.vae = AutoencoderTiny.from_pretrained(tiny_decoder)
    pipe.set_progress_bar_config(disable=True)
    drawn = draw(policy)
    how = {"sigmas": [1.0, 0.5], "num_inference_steps": 2, "guidance_scale": 1.0, "max_sequence_length": 6}
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, shift=1.0)
    noise = policy.initial_latents(sample_seeds(1, 2, (0, 1), INITIAL), 8, 16)
    images = pipe(prompt=PROMPTS, height=8, width=16, latents=noise, output_type="np", **how).images
    ours = policy.preview(drawn.clean[:, -1]).numpy().astype(int)
    assert np.abs(ours - np.round(images * 255.0).astype(int)).max() <= 1
    assert not torch.equal(policy.preview(drawn.clean[:, -1]), policy.decode(drawn.clean[:, -1]))
    assert torch.equal(load(without_t5).decode(drawn.clean[:, -1]), policy.decode(drawn.clean[:, -1]))


def test_tiled_decoding_makes_the_stock_pipelines_images_from_tiles(without_t5):
    plain, tiled = load(without_t5), load(without_t5, tiled_decoding=True)
    pipe = StableDiffusion3Pipeline.from_pretrained(without_t5, local_files_only=True, **ABSENT)
    pipe.vae.enable_tiling()
    x0 = torch.randn((1, 4, 32, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = x0 / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
        theirs = to_images(pipe.vae.decode(z, return_dict=False)[0])
    assert torch.equal(tiled.decode(x0), theirs)
    assert not torch.equal(tiled.decode(x0), plain.decode(x0)), "one tile is enough: the test would be blind"
    small = plain.initial_latents([1], 16, 24)
    assert torch.equal(tiled.decode(small), plain.decode(small))


@pytest.mark.parametrize("family", TWINS)
def test_every_family_can_decode_in_tiles(family, tmp_path):
    policy = load_policy(PolicySpec(folder=save_twin(family, tmp_path / "model"), tiled_decoding=True))
    assert policy._vae.use_tiling


def test_without_a_tiny_decoder_a_preview_is_the_image(without_t5):
    policy = load(without_t5)
    clean = draw(policy).clean[:, 0]
    assert torch.equal(policy.preview(clean), policy.decode(clean))


def test_a_missing_tiny_decoder_is_named(without_t5, tmp_path):
    with pytest.raises(ValueError, match=r"expected a folder of AutoencoderTiny, found no .*`model\.tiny_decoder`"):
        load(without_t5, tiny_decoder=tmp_path)


def test_latents_decoded_in_batches_are_the_same_images_within_a_level(without_t5):
    policy = load(without_t5)
    clean = draw(policy).clean
    together, apart = decode_all(policy.decode, clean), decode_all(policy.decode, clean, 1)
    assert int((together.int() - apart.int()).abs().max()) <= 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ratio_guard_holds_with_a_compiled_network(without_t5):
    """Rollouts plain, learner compiled, and the other way round; needs a C++ compiler."""
    for compiled in (0, 1):
        pair = [adapt(load(without_t5)) for _ in range(2)]
        pair[compiled].network.compile()
        how = Behaviour(sigmas=(1.0, 0.5, 0.0), temperatures=(0.9, 0.9), height=8, width=16)
        groups = [draw_group(pair[0], ordinal, how=how, text="a cat") for ordinal in range(2)]
        report = Learner(pair[1], spec(micro_batch=4)).update(groups, guard=True)
        assert report.trained
        assert report.guard_drift < 1e-4
