"""SANA-Sprint: any `SanaSprintPipeline` folder.

Facts of the family: the model was distilled in the TrigFlow parametrisation (arXiv 2503.09641), whose state at angle t
is cos t x0 + sin t eps, times the data's deviation sigma_data. With

    s = sin t / (cos t + sin t)        x = (cos t x0 + sin t eps) / (cos t + sin t) = (1 - s) x0 + s eps

it is an ordinary flow: what the network reads is x and s themselves, and in these variables its output is v = eps - x0
(the pipeline's rotation to TrigFlow and the scheduler's back cancel). The scheduler renews all noise at every step:
temperature 1. Guidance is an input of the network, scaled by its configuration (released with 4.5). Latents
[32, H/32, W/32] in the released models; Gemma tokens, masked, behind a fixed instruction.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import SanaSprintPipeline
from torch import Tensor, nn

from rollout.policies import stock
from rollout.policies.build import PolicySpec
from rollout.policy import Conditions

DEFAULTS = {name: given.default for name, given in inspect.signature(SanaSprintPipeline.__call__).parameters.items()}
"""What a plain call of the stock pipeline uses; its instruction to the text encoder and its grid are in no config."""


def load(spec: PolicySpec) -> SanaSprintPolicy:
    """The policy of a folder."""
    stock.refuse_tiny_decoder(spec)
    return SanaSprintPolicy(stock.open_pipeline(SanaSprintPipeline, spec), spec.guidance, spec.max_sequence_length)


class SanaSprintPolicy:
    """The five verbs for SANA-Sprint (see `rollout.policy.Policy`); the guidance is an input of the network."""

    adapter_targets = r"^transformer_blocks\.\d+\.attn[12]\."

    def __init__(self, pipeline: SanaSprintPipeline, guidance: float, max_sequence_length: int) -> None:
        config = pipeline.transformer.config
        self._pipeline = pipeline
        self._vae = pipeline.vae
        self.guidance = guidance
        self._embedded = guidance * config.guidance_embeds_scale
        self._max_sequence_length = max_sequence_length
        reduction = pipeline.vae_scale_factor
        self._layout = stock.LatentLayout(config.in_channels, reduction, multiple=reduction * config.patch_size)
        self.network: nn.Module = pipeline.transformer

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """Tokens [n, L, D] and their mask [n, L]."""
        tokens, mask = self._pipeline.encode_prompt(
            list(prompts),
            max_sequence_length=self._max_sequence_length,
            complex_human_instruction=DEFAULTS["complex_human_instruction"],
        )
        return Conditions({"tokens": tokens, "mask": mask})

    def encode_references(self, paths: Sequence[str]) -> Conditions:
        """Refused (see `stock.refuse_references`)."""
        return stock.refuse_references(paths)

    def place_text_encoders(self, device: torch.device | None) -> None:
        """Move the text encoders, or give them up (see `stock.place_text_encoders`)."""
        stock.place_text_encoders(self._pipeline, device)

    def initial_latents(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        """Standard normal latents [n, C, H / f, W / f] with the autoencoder's reduction f."""
        return self._layout.noise(seeds, height, width).to(stock.device_of(self.network))

    def sigmas(self, num_steps: int, height: int, width: int) -> tuple[float, ...]:
        """The pipeline's angles, equally spaced but for its special two-step grid, as noise levels; the first is 1
        (the pipeline's constant for pi / 2 exceeds it by 4e-6).
        """
        angles = [DEFAULTS["max_timesteps"] * (1.0 - step / num_steps) for step in range(1, num_steps)]
        if num_steps == 2:
            angles = [DEFAULTS["intermediate_timesteps"]]
        return (1.0, *(math.sin(angle) / (math.cos(angle) + math.sin(angle)) for angle in angles), 0.0)

    def velocity(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """V = eps - x0 in float32."""
        tokens, mask = conditions.tensors["tokens"], conditions.tensors["mask"]
        out: Tensor = self.network(
            hidden_states=x.to(tokens.dtype),
            encoder_hidden_states=tokens,
            encoder_attention_mask=mask,
            guidance=torch.full_like(sigma, self._embedded).to(tokens.dtype),
            timestep=sigma,
            return_dict=False,
        )[0]
        return out.float()

    @torch.no_grad()
    def decode(self, x0: Tensor) -> Tensor:
        """Images [n, H, W, 3] uint8 on the CPU, rounded as the stock pipeline rounds."""
        latents = x0.to(self._vae.dtype) / self._vae.config.scaling_factor
        return stock.to_images(self._vae.decode(latents, return_dict=False)[0])

    def preview(self, x0: Tensor) -> Tensor:
        """`decode`: nobody has made a tiny decoder for these latents."""
        return self.decode(x0)

    def save_trained(self, folder: Path) -> None:
        """What was trained, as stock diffusers loads it (see `stock.save_trained`)."""
        stock.save_trained(self._pipeline, folder)

    def load_adapter(self, source: Path) -> None:
        """Copy a saved adapter (a file, or a folder that holds one) into the attached one."""
        stock.load_adapter(self.network, source)
