"""Stable Diffusion 3 and 3.5: any `StableDiffusion3Pipeline` folder, with or without its T5 encoder.

Facts of the family: the transformer predicts v = eps - x0; its timestep is 1000 sigma; latents are unpacked
[16, H/8, W/8] in the large models, normalised as (z - shift) * scaling with the constants of `vae.config`; pooled CLIP
projections travel beside the tokens. Without T5 the pipeline appends `max_sequence_length` zero tokens, unmasked. The
grid's shift is the scheduler's own, or depends on the number of image tokens where the scheduler asks for it. A plain
call of the stock pipeline ends that grid at a small sigma instead of at 0, unless its scheduler has a `shift_terminal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from torch import Tensor, nn

from rollout.policies import stock
from rollout.policies.build import PolicySpec
from rollout.policy import Conditions


def load(spec: PolicySpec) -> SD3Policy:
    """The policy of a folder."""
    pipeline, tiny = stock.open_pipeline(StableDiffusion3Pipeline, spec), stock.open_tiny_decoder(spec)
    return SD3Policy(pipeline, spec.guidance, spec.max_sequence_length, tiny)


class SD3Policy:
    """The five verbs for Stable Diffusion 3 (see `rollout.policy.Policy`)."""

    def __init__(
        self,
        pipeline: StableDiffusion3Pipeline,
        guidance: float,
        max_sequence_length: int,
        tiny: AutoencoderTiny | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._vae = pipeline.vae
        self._tiny = tiny
        self.guidance = guidance
        self._max_sequence_length = max_sequence_length
        reduction = pipeline.vae_scale_factor
        self._layout = stock.LatentLayout(
            pipeline.transformer.config.in_channels, reduction, multiple=reduction * pipeline.patch_size
        )
        self.network: nn.Module = pipeline.transformer
        last = pipeline.transformer.config.num_layers - 1  # its text stream ends there: these queries are never read
        blocks = rf"transformer_blocks\.(?!{last}\.attn\.add_q_proj)"
        self.adapter_targets = rf"^({blocks}|context_embedder|time_text_embed\.|norm_out\.|proj_out)"

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """Tokens [n, L, D] and pooled projections [n, P], and those of the empty prompt where guidance needs them."""
        guided = self.guidance > 1.0
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

    def encode_references(self, paths: Sequence[str]) -> Conditions:
        """Refused (see `stock.refuse_references`)."""
        return stock.refuse_references(paths)

    def place_text_encoders(self, device: torch.device | None) -> None:
        """Move the text encoders, or give them up (see `stock.place_text_encoders`)."""
        stock.place_text_encoders(self._pipeline, device)

    def initial_latents(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        """Standard normal latents [n, C, H / f, W / f] with the autoencoder's reduction f. ValueError for a size that
        its table of positions does not reach.
        """
        reach = self._pipeline.transformer.config.pos_embed_max_size * self._layout.multiple
        if max(height, width) > reach:
            raise ValueError(
                f"expected a height and width of at most {reach}, for this model knows no positions beyond, found "
                f"{height} x {width}; change `height` and `width` in `sampling`"
            )
        return self._layout.noise(seeds, height, width).to(stock.device_of(self.network))

    def sigmas(self, num_steps: int, height: int, width: int) -> tuple[float, ...]:
        """The scheduler's grid, with the pipeline's shift for this many tokens where it asks for one."""
        scheduler = self._pipeline.scheduler
        num_tokens = (height // self._layout.multiple) * (width // self._layout.multiple)
        mu = stock.shift_by_length(calculate_shift, scheduler.config, num_tokens)
        return stock.scheduler_grid(scheduler, num_steps, mu)

    def velocity(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """V = eps - x0 in float32; where guided, both prompts go through the network in one call."""
        given = conditions.tensors
        if self.guidance > 1.0:
            tokens = torch.cat([given["tokens"], given["negative_tokens"]])
            pooled = torch.cat([given["pooled"], given["negative_pooled"]])
            v, away = self._call(torch.cat([x, x]), torch.cat([sigma, sigma]), tokens, pooled).chunk(2)
            return stock.guided(v, away, self.guidance)
        return self._call(x, sigma, given["tokens"], given["pooled"])

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

    def preview(self, x0: Tensor) -> Tensor:
        """Like `decode`, with the tiny decoder where there is one."""
        return self.decode(x0) if self._tiny is None else stock.decode_tiny(self._tiny, x0)

    def save_trained(self, folder: Path) -> None:
        """What was trained, as stock diffusers loads it (see `stock.save_trained`)."""
        stock.save_trained(self._pipeline, folder)

    def load_adapter(self, source: Path) -> None:
        """Copy a saved adapter (a file, or a folder that holds one) into the attached one."""
        stock.load_adapter(self.network, source)
