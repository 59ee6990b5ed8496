"""Z-Image and Z-Image-Turbo: any `ZImagePipeline` folder.

Facts of the family: the transformer's output is -v, v = eps - x0; its time is 1 - sigma; images and prompts enter as
lists, images as [16, 1, H/8, W/8] in the released models, prompts as their own tokens without padding; latents are
normalised as (z - shift) * scaling with the constants of `vae.config`. The grid's shift is the scheduler's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, ZImagePipeline
from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift
from torch import Tensor, nn
from torch.nn.functional import pad

from rollout.policies import stock
from rollout.policies.build import PolicySpec
from rollout.policy import Conditions


def load(spec: PolicySpec) -> ZImagePolicy:
    """The policy of a folder."""
    pipeline, tiny = stock.open_pipeline(ZImagePipeline, spec), stock.open_tiny_decoder(spec)
    return ZImagePolicy(pipeline, spec.guidance, spec.max_sequence_length, tiny)


class ZImagePolicy:
    """The five verbs for Z-Image (see `rollout.policy.Policy`).

    Guidance counts from 1 as everywhere here; the stock pipeline counts its `guidance_scale` from 0: ours less 1.
    """

    adapter_targets = r"^(layers|noise_refiner|context_refiner)\.\d+\.(attention|feed_forward)\."

    def __init__(
        self, pipeline: ZImagePipeline, guidance: float, max_sequence_length: int, tiny: AutoencoderTiny | None = None
    ) -> None:
        self._pipeline = pipeline
        self._vae = pipeline.vae
        self._tiny = tiny
        self.guidance = guidance
        self._max_sequence_length = max_sequence_length
        reduction = pipeline.vae_scale_factor
        self._layout = stock.LatentLayout(pipeline.transformer.config.in_channels, reduction, multiple=reduction * 2)
        self.network: nn.Module = pipeline.transformer

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """Tokens [n, L, D], zeros after each prompt's length [n], and those of the empty prompt where guided."""
        tensors = self._features("", prompts)
        if self.guidance > 1.0:
            tensors |= self._features("negative_", [""] * len(prompts))
        return Conditions(tensors)

    def _features(self, name: str, prompts: Sequence[str]) -> dict[str, Tensor]:
        tokens, _ = self._pipeline.encode_prompt(
            list(prompts),  # the pipeline writes its chat template into the list
            do_classifier_free_guidance=False,
            max_sequence_length=self._max_sequence_length,
        )
        padded = torch.stack([pad(row, (0, 0, 0, self._max_sequence_length - len(row))) for row in tokens])
        lengths = torch.tensor([len(row) for row in tokens], device=padded.device)
        return {f"{name}tokens": padded, f"{name}lengths": lengths}

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
        """The scheduler's grid, with the pipeline's shift for this many tokens where it asks for one."""
        scheduler = self._pipeline.scheduler
        num_tokens = (height // self._layout.multiple) * (width // self._layout.multiple)
        mu = stock.shift_by_length(calculate_shift, scheduler.config, num_tokens)
        return stock.scheduler_grid(scheduler, num_steps, mu)

    def velocity(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """V = eps - x0 in float32; where guided, both prompts go through the network in one call."""
        given = conditions.tensors
        rows = _ragged(given["tokens"], given["lengths"])
        if self.guidance > 1.0:
            rows += _ragged(given["negative_tokens"], given["negative_lengths"])
            v, away = self._call(torch.cat([x, x]), torch.cat([sigma, sigma]), rows).chunk(2)
            return stock.guided(v, away, self.guidance)
        return self._call(x, sigma, rows)

    def _call(self, x: Tensor, sigma: Tensor, rows: list[Tensor]) -> Tensor:
        images = list(x.to(rows[0].dtype).unsqueeze(2).unbind())
        out: list[Tensor] = self.network(images, 1.0 - sigma, rows, return_dict=False)[0]
        return -torch.stack(out).squeeze(2).float()

    @torch.no_grad()
    def decode(self, x0: Tensor) -> Tensor:
        """Images [n, H, W, 3] uint8 on the CPU, rounded as the stock pipeline rounds."""
        config = self._vae.config
        latents = x0.to(self._vae.dtype) / config.scaling_factor + config.shift_factor
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


def _ragged(tokens: Tensor, lengths: Tensor) -> list[Tensor]:
    return [row[:length] for row, length in zip(tokens, lengths.tolist(), strict=True)]
