"""Stable Diffusion 3 and 3.5: any `StableDiffusion3Pipeline` folder, with or without its T5 encoder.

Facts of the family: the transformer predicts v = eps - x0; its timestep is 1000 sigma; latents are unpacked
[16, H/8, W/8] in the large models, normalised as (z - shift) * scaling with the constants of `vae.config`; pooled CLIP
projections travel beside the tokens. Without T5 the pipeline appends `max_sequence_length` zero tokens, unmasked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn

from rollout.policies import stock
from rollout.policies.build import PolicySpec
from rollout.policy import Conditions
from rollout.schedule import shifted_grid


def load(spec: PolicySpec) -> SD3Policy:
    """The policy of a folder."""
    return SD3Policy(stock.open_pipeline(StableDiffusion3Pipeline, spec), spec.guidance, spec.max_sequence_length)


class SD3Policy:
    """The five verbs for Stable Diffusion 3 (see `rollout.policy.Policy`)."""

    adapter_targets = r"^(transformer_blocks\.|context_embedder|time_text_embed\.|norm_out\.|proj_out)"

    def __init__(self, pipeline: StableDiffusion3Pipeline, guidance: float, max_sequence_length: int) -> None:
        self._pipeline = pipeline
        self._vae = pipeline.vae
        self._guidance = guidance
        self._max_sequence_length = max_sequence_length
        reduction = pipeline.vae_scale_factor
        self._layout = stock.LatentLayout(
            pipeline.transformer.config.in_channels, reduction, multiple=reduction * pipeline.patch_size
        )
        self.network: nn.Module = pipeline.transformer

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """Tokens [n, L, D] and pooled projections [n, P], and those of the empty prompt where guidance needs them."""
        guided = self._guidance > 1.0
        tokens, negative, pooled, negative_pooled = self._pipeline.encode_prompt(
            list(prompts),
            None,
            None,
            do_classifier_free_guidance=guided,
            max_sequence_length=self._max_sequence_length,
        )
        tensors = {"tokens": tokens, "pooled": pooled}
        if guided:
            tensors |= {"negative_tokens": negative, "negative_pooled": negative_pooled}
        return Conditions(tensors)

    def initial_latents(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        """Standard normal latents [n, C, H / f, W / f] with the autoencoder's reduction f."""
        return self._layout.noise(seeds, height, width).to(self._pipeline.device)

    def sigmas(self, num_steps: int, height: int, width: int) -> tuple[float, ...]:
        """The scheduler's own shift applied to a uniform grid that ends at exactly 0."""
        return shifted_grid(num_steps, float(self._pipeline.scheduler.config.shift))

    def velocity(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """V = eps - x0 in float32, with classifier-free guidance where the policy was given a scale above 1."""
        given = conditions.tensors
        v = self._call(x, sigma, given["tokens"], given["pooled"])
        if self._guidance > 1.0:
            away = self._call(x, sigma, given["negative_tokens"], given["negative_pooled"])
            v = stock.guided(v, away, self._guidance)
        return v

    def _call(self, x: Tensor, sigma: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
        dtype = tokens.dtype
        out: Tensor = self.network(
            hidden_states=x.to(dtype),
            timestep=sigma * 1000.0,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        return out.float()

    @torch.no_grad()
    def decode(self, x0: Tensor) -> Tensor:
        """Images [n, H, W, 3] uint8 on the CPU, rounded as the stock pipeline rounds."""
        config = self._vae.config
        latents = (x0 / config.scaling_factor + config.shift_factor).to(self._vae.dtype)
        return stock.to_images(self._vae.decode(latents, return_dict=False)[0])

    def save_trained(self, folder: Path) -> None:
        """What was trained, as stock diffusers loads it (see `stock.save_trained`)."""
        stock.save_trained(self._pipeline, folder)

    def load_adapter(self, source: Path) -> None:
        """Copy a saved adapter (a file, or a folder that holds one) into the attached one."""
        stock.load_adapter(self.network, source)
