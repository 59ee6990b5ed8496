import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from rollout.kernel import build_process
from rollout.lora import ADAPTER, attach_adapter, reference
from rollout.policies.build import PolicySpec, load_policy
from rollout.policies.stock import ADAPTER_FILE
from rollout.sampler import named_noise, sample
from rollout.schedule import uniform_grid
from rollout.seeding import INITIAL
from rollout.trained import digest_tensors, train_everything, trained_tensors
from rollout.types import Behaviour

PROMPTS = ["a cat", "red dog"]
HEIGHT, WIDTH = 8, 16
LENGTH = 6


def load(folder, guidance=1.0, **options):
    return load_policy(PolicySpec(folder=folder, guidance=guidance, max_sequence_length=LENGTH, **options))


def adapt(policy, seed=0, rank=2, alpha=6.0):
    """Attach an adapter that does something."""
    attach_adapter(policy.network, policy.adapter_targets, rank, alpha, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained_tensors(policy.network).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy


def behaviour(policy, num_steps, tau):
    sigmas = policy.sigmas(num_steps, HEIGHT, WIDTH)
    return Behaviour(sigmas=sigmas, temperatures=(tau,) * num_steps, height=HEIGHT, width=WIDTH)


def draw(policy, num_steps=4, tau=0.0, prompts=PROMPTS, samples=(0, 1)):
    how = behaviour(policy, num_steps, tau)
    noise = named_noise(policy, how, 1, 2, samples)
    return sample(policy, policy.encode(prompts), build_process(how.sigmas, how.temperatures), noise)


def stock(folder, policy, num_steps, guidance, output_type, **scheduling):
    """What diffusers' own pipeline makes of the same initial latents."""
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True, **absent(folder))
    pipe.set_progress_bar_config(disable=True)
    if scheduling:
        pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, **scheduling)
    return call(pipe, policy, num_steps, guidance, output_type)


def absent(folder):
    return {} if (folder / "text_encoder_3").exists() else {"text_encoder_3": None, "tokenizer_3": None}


def call(pipe, policy, num_steps, guidance, output_type):
    noise = named_noise(policy, behaviour(policy, num_steps, 0.0), 1, 2, (0, 1))
    return pipe(
        prompt=PROMPTS,
        height=HEIGHT,
        width=WIDTH,
        sigmas=list(uniform_grid(num_steps)[:-1]),  # the scheduler applies its own shift to what it is passed
        guidance_scale=guidance,
        max_sequence_length=LENGTH,
        latents=noise(INITIAL),
        output_type=output_type,
    ).images


def levels(images):
    return np.round(images * 255.0).astype(int)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_at_temperature_0_the_sampler_makes_the_stock_pipelines_latents_and_images(without_t5, num_steps, guidance):
    policy = load(without_t5, guidance)
    ours = draw(policy, num_steps).clean[:, -1]
    theirs = stock(without_t5, policy, num_steps, guidance, "latent")
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    images = levels(stock(without_t5, policy, num_steps, guidance, "np"))
    assert np.abs(policy.decode(ours).numpy().astype(int) - images).max() <= 1


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_with_a_t5_encoder_too_the_sampler_makes_the_stock_pipelines_latents(with_t5, guidance):
    policy = load(with_t5, guidance)
    theirs = stock(with_t5, policy, 2, guidance, "latent")
    torch.testing.assert_close(draw(policy, 2).clean[:, -1], theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_at_temperature_1_the_sampler_is_stock_stochastic_sampling_with_the_same_noise(without_t5, guidance):
    policy, num_steps = load(without_t5, guidance), 4
    how = behaviour(policy, num_steps, 1.0)
    initial = named_noise(policy, how, 1, 2, (0, 1))(INITIAL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)  # the stock scheduler draws from the global generator, once a step
        drawn = [torch.randn_like(initial) for _ in range(num_steps)]
        torch.manual_seed(5)
        theirs = stock(without_t5, policy, num_steps, guidance, "latent", stochastic_sampling=True)
    process = build_process(how.sigmas, how.temperatures)
    ours = sample(policy, policy.encode(PROMPTS), process, lambda k: initial if k == INITIAL else drawn[k])
    torch.testing.assert_close(ours.clean[:, -1], theirs, atol=1e-4, rtol=0)
    deterministic = draw(policy, num_steps).clean[:, -1]
    assert float((deterministic - theirs).abs().max()) > 0.1


def test_the_policys_own_grid_is_the_one_its_scheduler_walks(without_t5):
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(without_t5, subfolder="scheduler")
    scheduler.set_timesteps(sigmas=list(uniform_grid(4)[:-1]))
    sigmas = load(without_t5).sigmas(4, HEIGHT, WIDTH)
    torch.testing.assert_close(torch.tensor(sigmas), scheduler.sigmas)
    assert sigmas[-2] > 0.25  # shifted


def test_samples_do_not_depend_on_the_batch(without_t5):
    policy = load(without_t5, guidance=2.0)
    together = draw(policy, tau=1.0)
    for row, prompt in enumerate(PROMPTS):
        alone = draw(policy, tau=1.0, prompts=[prompt], samples=[row])
        torch.testing.assert_close(alone.clean, together.clean[row : row + 1], atol=1e-5, rtol=0)


def test_guidance_moves_the_velocity_away_from_the_empty_prompt(without_t5):
    x, sigma = torch.randn(2, 4, 4, 8), torch.full((2,), 0.5)
    plain, guided = load(without_t5), load(without_t5, guidance=3.0)
    empty = plain.velocity(x, sigma, plain.encode(["", ""]))
    here = plain.velocity(x, sigma, plain.encode(PROMPTS))
    expected = empty + 3.0 * (here - empty)
    torch.testing.assert_close(guided.velocity(x, sigma, guided.encode(PROMPTS)), expected, atol=1e-5, rtol=1e-5)
    assert "negative_tokens" not in plain.encode(PROMPTS).tensors


def test_only_the_adapter_gets_a_gradient(without_t5):
    policy = adapt(load(without_t5))
    conditions = policy.encode(PROMPTS)
    policy.velocity(torch.randn(2, 4, 4, 8), torch.full((2,), 0.5), conditions).square().sum().backward()
    with_gradient = {name for name, p in policy.network.named_parameters() if p.grad is not None}
    assert with_gradient == set(trained_tensors(policy.network))
    idle = {name for name, p in trained_tensors(policy.network).items() if float(p.grad.abs().sum()) == 0.0}
    assert all("transformer_blocks.1.attn.add_q_proj." in name for name in idle)  # the last block drops its text tokens
    assert not any(tensor.requires_grad for tensor in conditions.tensors.values())


def test_the_default_targets_are_the_networks_linear_layers_but_for_the_patches(without_t5):
    policy = load(without_t5)
    linear = {n for n, module in policy.network.named_modules() if isinstance(module, torch.nn.Linear)}
    attach_adapter(policy.network, policy.adapter_targets, 2, 2.0, 0)
    assert {name.partition(".lora_")[0] for name in trained_tensors(policy.network)} == linear


def test_the_reference_of_an_adapted_policy_is_the_folders_own_model(without_t5):
    policy = adapt(load(without_t5))
    with reference(policy.network):
        ours = draw(policy).clean
    assert torch.equal(ours, draw(load(without_t5)).clean)
    assert not torch.allclose(ours, draw(policy).clean)


def test_a_size_that_does_not_divide_into_patches_is_refused(without_t5):
    with pytest.raises(ValueError, match=r"divisible by 4, found 8 x 18; change `sampling\.height`"):
        load(without_t5).initial_latents([1], 8, 18)


def test_a_half_precision_network_still_speaks_float32_to_the_kernel(without_t5):
    policy, exact = adapt(load(without_t5, dtype="bfloat16")), adapt(load(without_t5))
    drawn = draw(policy, tau=1.0)
    assert policy.network.proj_out.get_base_layer().weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in trained_tensors(policy.network).values()} == {torch.float32}
    assert drawn.clean.dtype == drawn.trajectory.actions.dtype == torch.float32
    assert policy.decode(drawn.clean[:, -1]).dtype == torch.uint8
    near = draw(exact, tau=1.0).clean
    assert float((drawn.clean - near).abs().mean()) < 0.05 * float(near.abs().mean())


@pytest.mark.parametrize(("stored", "asked"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_the_network_has_the_dtype_asked_for_whatever_its_file_holds(without_t5, tmp_path, stored, asked):
    pipe = StableDiffusion3Pipeline.from_pretrained(without_t5, local_files_only=True, **absent(without_t5))
    pipe.to(getattr(torch, stored)).save_pretrained(tmp_path)
    network = load(tmp_path, dtype=asked).network
    assert {parameter.dtype for parameter in network.parameters()} == {getattr(torch, asked)}


def test_a_saved_adapter_makes_our_images_in_the_stock_pipeline(without_t5, tmp_path):
    policy = adapt(load(without_t5))
    policy.save_trained(tmp_path)
    pipe = StableDiffusion3Pipeline.from_pretrained(without_t5, local_files_only=True, **absent(without_t5))
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(tmp_path)
    theirs = call(pipe, policy, 4, 1.0, "latent")
    torch.testing.assert_close(draw(policy).clean[:, -1], theirs, atol=1e-4, rtol=0)
    unadapted = stock(without_t5, policy, 4, 1.0, "latent")
    assert float((theirs - unadapted).abs().max()) > 0.01


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
