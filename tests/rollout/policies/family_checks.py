"""The checks that every model family passes. A family's test file describes the family once, as a `Family`, and calls
them; see "A new model family" in CONTRIBUTING.md.

The stock pipeline is the judge: it gets the same initial latents, the same prompts and, for families that renew their
noise, the same noise.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rollout.kernel import build_process
from rollout.lora import ADAPTER, MergedAdapter, attach_adapter, reference
from rollout.policies.build import FAMILIES, PolicySpec, load_policy
from rollout.policies.serving import stock_arguments
from rollout.sampler import named_noise, sample
from rollout.schedule import uniform_grid
from rollout.seeding import INITIAL
from rollout.trained import digest_tensors, trained_tensors
from rollout.types import Behaviour

PROMPTS = ("a cat", "a red dog that runs on green grass")  # of different lengths: padding must not show
SEED = 5


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the checks have to know about a family. Latents are "ours" as `Policy` lays them out."""

    folder: Path  # a tiny random pipeline of the stock classes, all of whose parameters are away from zero
    pipeline: type  # the stock class
    known_flow: type  # the network's class with a forward of the same signature: the flow to `target` (theirs)
    to_stock: Callable[[Tensor], Tensor]  # our latents as the pipeline's `latents=` takes them
    from_stock: Callable[[Tensor, int, int], Tensor]  # the loop's latents in the pipeline as ours, of latent h and w
    to_target: Callable[[Tensor], Tensor]  # our latents as the network lays them out
    max_sequence_length: int
    guidance: float = 1.0
    tau: float = 0.0  # the pipeline's own temperature; at 1 it draws its noise from `generator=`
    calls_per_step: int = 1
    passes_sigmas: bool = False  # a plain call of the stock pipeline walks a grid that ends elsewhere than ours
    absent: tuple[str, ...] = ()  # components the folder declares absent


def load(family, **options):
    return load_policy(
        PolicySpec(
            **{
                "folder": family.folder,
                "guidance": family.guidance,
                "max_sequence_length": family.max_sequence_length,
                **options,
            }
        )
    )


def load_stock(family):
    absent = dict.fromkeys(family.absent)
    pipe = family.pipeline.from_pretrained(family.folder, local_files_only=True, **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def adapt(policy, seed=0, rank=2, alpha=6.0):
    """Attach an adapter that does something."""
    attach_adapter(policy.network, policy.adapter_targets, rank, alpha, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained_tensors(policy.network).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy


def draw(policy, family, num_steps, size, tau=None, prompts=PROMPTS, samples=(0, 1)):
    """Our samples; at the family's own temperature 1 with the noise that the stock pipeline's generator draws."""
    tau = family.tau if tau is None else tau
    how = Behaviour(
        sigmas=policy.sigmas(num_steps, *size), temperatures=(tau,) * num_steps, height=size[0], width=size[1]
    )
    named = named_noise(policy, how, 1, 2, samples)
    noise = stock_noise(named(INITIAL), num_steps) if tau == 1.0 and len(samples) == len(PROMPTS) else named
    return sample(policy, policy.encode(list(prompts)), build_process(how.sigmas, how.temperatures), noise)


def stock_noise(initial, num_steps):
    generator = torch.Generator().manual_seed(SEED)
    drawn = [torch.randn(initial.shape, generator=generator) for _ in range(num_steps)]
    return lambda step: initial if step == INITIAL else drawn[step]


def draw_stock(pipe, policy, family, num_steps, size):
    """(latents in our layout, images [n, H, W, 3] in levels) of the stock pipeline for the same initial latents."""
    how = Behaviour(sigmas=(1.0, 0.0), temperatures=(0.0,), height=size[0], width=size[1])
    initial = named_noise(policy, how, 1, 2, range(len(PROMPTS)))(INITIAL)
    kept = {}

    def keep(_, step, timestep, tensors):
        kept["latents"] = tensors["latents"]
        return tensors

    images = pipe(
        prompt=list(PROMPTS),
        height=size[0],
        width=size[1],
        **({"sigmas": list(uniform_grid(num_steps)[:-1])} if family.passes_sigmas else {}),
        num_inference_steps=num_steps,
        latents=family.to_stock(initial),
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
        callback_on_step_end=keep,
        max_sequence_length=family.max_sequence_length,
        **as_lists(stock_arguments(family.folder, num_steps, family.guidance)),
    ).images
    return family.from_stock(kept["latents"], *initial.shape[2:]), np.round(images * 255.0).astype(int)


def as_lists(arguments):
    """One negative prompt a prompt, as pipelines want them for several prompts."""
    return {n: [v] * len(PROMPTS) if isinstance(v, str) else v for n, v in arguments.items()}


class Calls:
    """How often a network ran."""

    def __init__(self, network):
        self.number = 0
        network.register_forward_pre_hook(self._count)

    def _count(self, module, arguments):
        self.number += 1


def assert_same_images(ours, theirs):
    """Within one of 256 levels."""
    assert ours.dtype == torch.uint8
    assert np.abs(ours.numpy().astype(int) - theirs).max() <= 1


def check_it_makes_the_stock_pipelines_latents_and_images(family, num_steps, size):
    policy, pipe = load(family), load_stock(family)
    our_calls, their_calls = Calls(policy.network), Calls(pipe.transformer)
    ours = draw(policy, family, num_steps, size).clean[:, -1]
    theirs, images = draw_stock(pipe, policy, family, num_steps, size)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert float(ours.std()) > 0.1  # the random network says something
    assert_same_images(policy.decode(ours), images)
    assert images.std() > 5.0
    assert our_calls.number == their_calls.number == num_steps * family.calls_per_step


def check_its_grid_is_the_one_the_stock_scheduler_walks(family, num_steps, size):
    policy, pipe = load(family), load_stock(family)
    sigmas = policy.sigmas(num_steps, *size)
    draw_stock(pipe, policy, family, num_steps, size)
    torch.testing.assert_close(torch.tensor(sigmas), pipe.scheduler.sigmas.cpu(), atol=1e-6, rtol=0)
    assert sigmas[0] == 1.0
    assert sigmas[-1] == 0.0


def check_the_flow_to_a_known_image_lands_on_it(family, num_steps, size):
    """Both the stock pipeline and ours, at its own temperature and at 0 and 0.5, so that the known flow is the one that
    the pipeline means: no sign, time or packing can hide.
    """
    policy, pipe = load(family), load_stock(family)
    target = policy.initial_latents([7, 8], *size)
    images = policy.decode(target)
    for owner, name in ((policy, "network"), (pipe, "transformer")):
        flow = family.known_flow.from_config(load(family).network.config)
        flow.target = family.to_target(target)
        setattr(owner, name, flow)
    for tau in (family.tau, 0.0, 0.5):
        ours = draw(policy, family, num_steps, size, tau).clean
        torch.testing.assert_close(ours, target[:, None].expand_as(ours), atol=1e-4, rtol=0)
    theirs, stock_images = draw_stock(pipe, policy, family, num_steps, size)
    torch.testing.assert_close(theirs, target, atol=1e-4, rtol=0)
    assert_same_images(images, stock_images)


def check_gradients_reach_every_lora_matrix_and_nothing_else(family, size):
    policy = adapt(load(family))
    conditions = policy.encode(list(PROMPTS))
    x = policy.initial_latents([1, 2], *size)
    policy.velocity(x, torch.tensor([0.5, 0.9]), conditions).square().sum().backward()
    with_gradient = {n for n, p in policy.network.named_parameters() if p.grad is not None and bool(p.grad.any())}
    trained = set(trained_tensors(policy.network))
    assert with_gradient == trained
    assert all("lora_" in name for name in trained)
    parts = (part for part in policy._pipeline.components.values() if isinstance(part, torch.nn.Module))
    assert {id(p) for part in parts for p in part.parameters() if p.requires_grad} == {
        id(p) for p in trained_tensors(policy.network).values()
    }
    assert not any(tensor.requires_grad for tensor in conditions.tensors.values())


def check_the_targets_are_exactly(family, expected):
    """Every linear layer whose name matches `expected` carries an adapter, and no other."""
    policy = load(family)
    linear = {n for n, module in policy.network.named_modules() if isinstance(module, torch.nn.Linear)}
    attach_adapter(policy.network, policy.adapter_targets, 2, 2.0, 0)
    adapted = {name.partition(".lora_")[0] for name in trained_tensors(policy.network)}
    assert adapted == {name for name in linear if re.search(expected, name)}


def check_gradient_checkpointing_changes_nothing(family, size):
    results = []
    for checkpointing in (False, True):
        policy = adapt(load(family))
        if checkpointing:
            policy.network.enable_gradient_checkpointing()
        x = policy.initial_latents([1, 2], *size)
        v = policy.velocity(x, torch.tensor([0.5, 0.9]), policy.encode(list(PROMPTS)))
        v.square().sum().backward()
        results.append((v.detach(), {name: p.grad for name, p in trained_tensors(policy.network).items()}))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def check_a_saved_adapter_makes_our_images_in_the_stock_pipeline(family, folder, num_steps, size):
    policy, pipe = adapt(load(family)), load_stock(family)
    unadapted, _ = draw_stock(pipe, policy, family, num_steps, size)
    policy.save_trained(folder)
    pipe.load_lora_weights(folder)
    theirs, images = draw_stock(pipe, policy, family, num_steps, size)
    ours = draw(policy, family, num_steps, size).clean[:, -1]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert_same_images(policy.decode(ours), images)
    assert float((theirs - unadapted).abs().max()) > 0.01
    again = adapt(load(family), seed=2)
    again.load_adapter(folder)
    assert digest_tensors(trained_tensors(again.network)) == digest_tensors(trained_tensors(policy.network))


def check_the_reference_is_the_folders_own_model(family, size):
    policy = adapt(load(family))
    with reference(policy.network):
        ours = draw(policy, family, 2, size).clean
    assert torch.equal(ours, draw(load(family), family, 2, size).clean)
    assert not torch.allclose(ours, draw(policy, family, 2, size).clean)


def check_a_base_adapter_stays_on_under_the_trained_one(family, folder, size):
    """A frozen distillation adapter changes the reference, is neither trained nor saved, and in the stock pipeline the
    two files together make our images.
    """
    adapt(load(family), seed=3).save_trained(folder / "base")
    below = load(family, base_adapter=folder / "base")
    pipe = load_stock(family)
    pipe.load_lora_weights(folder / "base", adapter_name="distilled")
    alone = draw(below, family, 2, size).clean
    torch.testing.assert_close(alone[:, -1], draw_stock(pipe, below, family, 2, size)[0], atol=1e-4, rtol=0)
    assert float((alone - draw(load(family), family, 2, size).clean).abs().max()) > 0.01
    policy = adapt(load(family, base_adapter=folder / "base"), seed=4)
    assert all(f".{ADAPTER}." in name for name in trained_tensors(policy.network))
    with reference(policy.network):
        torch.testing.assert_close(draw(policy, family, 2, size).clean, alone, atol=1e-6, rtol=0)
    policy.save_trained(folder / "trained")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two adapters are meant
        pipe.load_lora_weights(folder / "trained", adapter_name="trained")
    pipe.set_adapters(["distilled", "trained"])
    ours = draw(policy, family, 2, size).clean[:, -1]
    torch.testing.assert_close(ours, draw_stock(pipe, policy, family, 2, size)[0], atol=1e-4, rtol=0)
    assert float((ours - alone[:, -1]).abs().max()) > 0.01


def check_folding_the_adapter_in_changes_rounding_only(family, size):
    """What rollouts compute with the adapter folded into the weights is what the learner computes beside them."""
    policy = adapt(load(family))
    expected = draw(policy, family, 2, size).clean
    MergedAdapter(policy.network).refresh()
    torch.testing.assert_close(draw(policy, family, 2, size).clean, expected, atol=1e-4, rtol=0)


def check_samples_do_not_depend_on_the_batch(family, size):
    policy = load(family)
    together = draw(policy, family, 2, size, tau=0.5)
    for row, prompt in enumerate(PROMPTS):
        alone = draw(policy, family, 2, size, tau=0.5, prompts=[prompt], samples=[row])
        torch.testing.assert_close(alone.clean, together.clean[row : row + 1], atol=1e-5, rtol=0)


def check_rows_of_conditions_join_and_part(family, size):
    """Prompts encoded one by one, joined and taken apart again give the velocities of prompts encoded together."""
    policy = load(family)
    x, sigma = policy.initial_latents([1, 2], *size), torch.tensor([0.5, 0.9])
    together = policy.encode(list(PROMPTS))
    joined = type(together).concatenate([policy.encode([prompt]) for prompt in PROMPTS])
    with torch.no_grad():
        expected = policy.velocity(x, sigma, together)
        torch.testing.assert_close(policy.velocity(x, sigma, joined), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            policy.velocity(x[[1]], sigma[[1]], joined.take([1])), expected[[1]], atol=1e-5, rtol=0
        )


def check_without_text_encoders_all_but_encoding_goes_on(family, folder, size):
    """Encoders that wait on the CPU encode as those that stay, and once they are given up nothing else changes."""
    stays, waits = adapt(load(family)), adapt(load(family, encoders_wait=True))
    conditions = waits.encode(list(PROMPTS))
    expected = stays.encode(list(PROMPTS)).tensors
    assert all(torch.equal(tensor, expected[name]) for name, tensor in conditions.tensors.items())
    for device in (torch.device("cpu"), None):
        waits.place_text_encoders(device)
    held = [n for n, part in waits._pipeline.components.items() if "encoder" in n and part is not None]
    assert held == []
    x, sigma = waits.initial_latents([1, 2], *size), torch.tensor([0.5, 0.9])
    assert torch.equal(waits.velocity(x, sigma, conditions), stays.velocity(x, sigma, conditions))
    assert torch.equal(waits.decode(x), stays.decode(x))
    waits.save_trained(folder)
    stays.load_adapter(folder)


def check_in_half_precision_it_stays_near_the_stock_pipeline(family, size):
    """Our kernel stays float32 where stock rounds its latents too; two steps with a network in bfloat16 stay within
    5 % of each other, on average.
    """
    policy, pipe = load(family, dtype="bfloat16"), load_stock(family).to(torch.bfloat16)
    drawn = draw(policy, family, 2, size)
    assert {parameter.dtype for parameter in policy.network.parameters()} == {torch.bfloat16}
    assert drawn.clean.dtype == torch.float32
    assert policy.decode(drawn.clean[:, -1]).dtype == torch.uint8
    theirs = draw_stock(pipe, policy, family, 2, size)[0].float()
    distance = float((drawn.clean[:, -1] - theirs).abs().mean()) / float(theirs.abs().mean())
    assert distance < 0.05


def check_from_shapes_alone_it_knows_what_would_be_trained(family, folder, size):
    """On the meta device: the same grid, latents and adapter matrices, and whether saved adapters fit, over another."""
    whole = adapt(load(family))
    whole.save_trained(folder)
    hollow = load(family, device="meta", base_adapter=folder)
    attach_adapter(hollow.network, hollow.adapter_targets, 2, 6.0, 0)
    hollow.load_adapter(folder)
    assert hollow.sigmas(4, *size) == whole.sigmas(4, *size)
    assert hollow.initial_latents([1], *size).shape == whole.initial_latents([1], *size).shape
    found, expected = (trained_tensors(policy.network) for policy in (hollow, whole))
    assert {name: t.shape for name, t in found.items()} == {name: t.shape for name, t in expected.items()}
    weights = (tensor for name, tensor in hollow.network.state_dict().items() if "lora_" not in name)
    assert all(tensor.is_meta for tensor in weights)
    other = load(family, device="meta")
    attach_adapter(other.network, other.adapter_targets, 3, 6.0, 0)
    with pytest.raises(ValueError, match=r"does not fit: .* should be \(3, .*, is \(2, "):
        other.load_adapter(folder)


def check_the_index_chooses_it(family):
    assert family.pipeline.__name__ in FAMILIES
    assert type(load(family)).__module__ == FAMILIES[family.pipeline.__name__].partition(":")[0]
