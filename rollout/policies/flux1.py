"""FLUX.1: any `FluxPipeline` folder; schnell (no guidance) and dev (guidance as an input of the network).

Facts of the family: the transformer predicts v = eps - x0; its timestep is sigma; latents are [16, H/8, W/8] in the
released models, normalised as (z - shift) * scaling with the constants of `vae.config`, and enter the network as tokens
of 2x2 patches; positions are (0, row, column) for images and zeros for text, without a batch dimension; pooled CLIP
features travel beside T5 tokens, which are padded and unmasked. The grid's shift is the scheduler's own (schnell) or
depends on the number of image tokens (dev).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from rollout.policies import stock
from rollout.policies.build import PolicySpec
from rollout.policy import Conditions


def load(spec: PolicySpec) -> Flux1Policy:
    """The policy of a folder."""
    pipeline, tiny = stock.open_pipeline(FluxPipeline, spec), stock.open_tiny_decoder(spec)
    return Flux1Policy(pipeline, spec.guidance, spec.max_sequence_length, tiny)


class Flux1Policy:
    """The five verbs for FLUX.1 (see `rollout.policy.Policy`).

    Guidance is embedded where the network has an input for it (dev was released with 3.5); elsewhere a scale above 1
    is classifier-free guidance away from the empty prompt, stock's `true_cfg_scale` with `negative_prompt=""`.
    """

    adapter_targets = (
        r"^(transformer_blocks\.\d+\.(attn|ff|ff_context)\.|single_transformer_blocks\.\d+\.(attn\.|proj_mlp|proj_out))"
    )

    def __init__(
        self, pipeline: FluxPipeline, guidance: float, max_sequence_length: int, tiny: AutoencoderTiny | None = None
    ) -> None:
        config = pipeline.transformer.config
        self._pipeline = pipeline
        self._vae = pipeline.vae
        self._tiny = tiny
        self.guidance = guidance
        self._embedded = bool(config.guidance_embeds)
        self._away = guidance > 1.0 and not self._embedded
        self._max_sequence_length = max_sequence_length
        reduction = pipeline.vae_scale_factor
        self._layout = stock.LatentLayout(config.in_channels // 4, reduction, multiple=reduction * 2)
        self.network: nn.Module = pipeline.transformer

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """Tokens [n, L, D] and pooled features [n, P], and those of the empty prompt where guidance needs them."""
        tokens, pooled = self._features(list(prompts))
        tensors = {"tokens": tokens, "pooled": pooled}
        if self._away:
            negative, negative_pooled = self._features([""] * len(prompts))
            tensors |= {"negative_tokens": negative, "negative_pooled": negative_pooled}
        return Conditions(tensors)

    def _features(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        tokens, pooled, _ = self._pipeline.encode_prompt(prompts, max_sequence_length=self._max_sequence_length)
        return tokens, pooled

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
        """The scheduler's grid with the pipeline's shift for this many tokens, where it asks for one."""
        scheduler = self._pipeline.scheduler
        num_tokens = (height // self._layout.multiple) * (width // self._layout.multiple)
        mu = stock.shift_by_length(calculate_shift, scheduler.config, num_tokens)
        return stock.scheduler_grid(scheduler, num_steps, mu)

    def velocity(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """V = eps - x0 in float32, guided as the class says."""
        given = conditions.tensors
        v = self._call(x, sigma, given["tokens"], given["pooled"])
        if self._away:
            away = self._call(x, sigma, given["negative_tokens"], given["negative_pooled"])
            v = stock.guided(v, away, self.guidance)
        return v

    def _call(self, x: Tensor, sigma: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
        height, width = x.shape[2:]
        out: Tensor = self.network(
            hidden_states=stock.pack(x).to(tokens.dtype),
            timestep=stock.rounded_sigma(sigma, tokens.dtype),
            guidance=torch.full_like(sigma, self.guidance) if self._embedded else None,
            pooled_projections=pooled,
            encoder_hidden_states=tokens,
            txt_ids=torch.zeros(tokens.shape[1], 3, device=x.device),
            img_ids=_positions(height // 2, width // 2, x.device),
            return_dict=False,
        )[0]
        return stock.unpack(out.float(), height, width)

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


def _positions(height: int, width: int, device: torch.device) -> Tensor:
    """(0, row, column) of all image tokens [height width, 3], in row-major order."""
    ranges = [torch.arange(size, device=device) for size in (1, height, width)]
    return torch.cartesian_prod(*ranges).float()
