"""How far a policy is from the stock pipeline of its folder: the same initial latents, prompts and noise to both.

For machines and precisions that the tests do not meet: `tafs accept` runs it on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from rollout.kernel import build_process
from rollout.policies import stock
from rollout.policies.build import PolicySpec, load_policy, pipeline_class
from rollout.policies.serving import stock_arguments
from rollout.sampler import named_noise, sample
from rollout.schedule import uniform_grid
from rollout.seeding import INITIAL
from rollout.types import Behaviour

NOISE_SEED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """How latents go into a stock pipeline and come out of its loop, and what its sampler does."""

    to_stock: Callable[[Tensor], Tensor]  # ours as the pipeline's `latents=`
    from_stock: Callable[[Tensor, int, int], Tensor]  # the loop's latents as ours, of latent height and width
    temperature: float = 0.0  # at 1 the pipeline draws new noise at every step, from `generator=`
    passes_sigmas: bool = False  # a plain call walks a grid that ends elsewhere than ours


def _same(latents: Tensor) -> Tensor:
    return latents


def _same_of_size(latents: Tensor, height: int, width: int) -> Tensor:
    return latents


def _sana(latents: Tensor, height: int, width: int) -> Tensor:
    return latents / 0.5  # sigma_data of its scheduler


EXCHANGES = {
    "StableDiffusion3Pipeline": Exchange(to_stock=_same, from_stock=_same_of_size, passes_sigmas=True),
    "Flux2KleinPipeline": Exchange(to_stock=_same, from_stock=stock.to_planes),
    "FluxPipeline": Exchange(to_stock=stock.pack, from_stock=stock.unpack),
    "SanaSprintPipeline": Exchange(to_stock=_same, from_stock=_sana, temperature=1.0),
    "ZImagePipeline": Exchange(to_stock=_same, from_stock=_same_of_size),
    "QwenImagePipeline": Exchange(to_stock=stock.pack, from_stock=stock.unpack),
}
"""Pipeline class in `model_index.json` -> how its latents are exchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Between our final latents and the stock pipeline's."""

    largest: float
    mean_share: float  # mean absolute difference over the mean absolute latent


def parity(spec: PolicySpec, prompts: Sequence[str], num_steps: int, height: int, width: int) -> Distance:
    """One sample per prompt on the model's own grid, ours and stock's. float32 kernels may use TF32 where PyTorch was
    told so; the default is not to.
    """
    exchange = EXCHANGES[pipeline_class(spec.folder)]
    policy = load_policy(spec)
    how = Behaviour(
        sigmas=policy.sigmas(num_steps, height, width),
        temperatures=(exchange.temperature,) * num_steps,
        height=height,
        width=width,
        guidance=spec.guidance,
    )
    named = named_noise(policy, how, 1, 2, range(len(prompts)))
    initial = named(INITIAL)
    noise = _generators_noise(initial, num_steps) if exchange.temperature == 1.0 else named
    ours = sample(policy, policy.encode(prompts), build_process(how.sigmas, how.temperatures), noise).clean[:, -1]
    del policy  # two of a large model need not fit
    theirs = _stock_latents(spec, exchange, prompts, num_steps, how, initial)
    apart = (ours - theirs).abs()
    return Distance(largest=float(apart.max()), mean_share=float(apart.mean() / theirs.abs().mean()))


def _generators_noise(initial: Tensor, num_steps: int) -> Callable[[int], Tensor]:
    generator = torch.Generator().manual_seed(NOISE_SEED)  # on the CPU, as diffusers draws with such a generator
    drawn = [torch.randn(initial.shape, generator=generator).to(initial.device) for _ in range(num_steps)]
    return lambda step: initial if step == INITIAL else drawn[step]


def _stock_latents(
    spec: PolicySpec, exchange: Exchange, prompts: Sequence[str], num_steps: int, how: Behaviour, initial: Tensor
) -> Tensor:
    pipeline_type = getattr(import_module("diffusers"), pipeline_class(spec.folder))
    pipeline: Any = stock.open_pipeline(pipeline_type, replace(spec, encoders_wait=False))
    pipeline.set_progress_bar_config(disable=True)
    kept: dict[str, Tensor] = {}

    def keep(_: object, step: int, timestep: object, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        kept["latents"] = tensors["latents"]
        return tensors

    arguments = stock_arguments(spec.folder, num_steps, spec.guidance)
    sigmas = {"sigmas": list(uniform_grid(num_steps)[:-1])} if exchange.passes_sigmas else {}
    pipeline(
        prompt=list(prompts),
        height=how.height,
        width=how.width,
        num_inference_steps=num_steps,
        latents=exchange.to_stock(initial).to(next(pipeline.transformer.parameters()).dtype),
        generator=torch.Generator().manual_seed(NOISE_SEED),
        output_type="latent",
        callback_on_step_end=keep,
        max_sequence_length=spec.max_sequence_length,
        **sigmas,
        **{name: [given] * len(prompts) if isinstance(given, str) else given for name, given in arguments.items()},
    )
    return exchange.from_stock(kept["latents"], *initial.shape[2:]).float()
