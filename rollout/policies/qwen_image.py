"""Qwen-Image: any `QwenImagePipeline` folder; with few steps only above a distillation adapter (`base_adapter`).

Facts of the family: the transformer predicts v = eps - x0; its timestep is sigma; latents are [16, H/8, W/8] in the
released model, normalised by the mean and deviation per channel in `vae.config`, and enter the network as tokens of 2x2
patches beside the image's shape in patches; the autoencoder is one of videos, with one frame; prompts are Qwen2.5-VL
tokens behind a template whose first tokens are dropped, padded and masked. The grid's shift depends on the number of
image tokens as the folder's scheduler says: with a distillation adapter, put that adapter's own scheduler there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import QwenImagePipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from torch import Tensor, nn
from torch.nn.functional import pad

from rollout.policies import stock
from rollout.policies.build import PolicySpec
from rollout.policy import Conditions

EMPTY = " "
"""The prompt that guidance leads away from, as the model's authors write it."""


def load(spec: PolicySpec) -> QwenImagePolicy:
    """The policy of a folder."""
    stock.refuse_tiny_decoder(spec)
    return QwenImagePolicy(stock.open_pipeline(QwenImagePipeline, spec), spec.guidance, spec.max_sequence_length)


class QwenImagePolicy:
    """The five verbs for Qwen-Image (see `rollout.policy.Policy`).

    Guidance is stock's `true_cfg_scale` with `negative_prompt=" "`: classifier-free guidance, each token then scaled
    back to the length it had unguided.
    """

    def __init__(self, pipeline: QwenImagePipeline, guidance: float, max_sequence_length: int) -> None:
        config = pipeline.transformer.config
        self._pipeline = pipeline
        self._vae = pipeline.vae
        self.guidance = guidance
        self._max_sequence_length = max_sequence_length
        reduction = pipeline.vae_scale_factor
        self._layout = stock.LatentLayout(config.in_channels // 4, reduction, multiple=reduction * 2)
        self.network: nn.Module = pipeline.transformer
        last = config.num_layers - 1  # the last block's text stream ends there: what only feeds it gets no gradient
        ends = rf"{last}\.(txt_mlp|attn\.(add_q_proj|to_add_out))\b"
        self.adapter_targets = rf"^transformer_blocks\.(?!{ends})\d+\.(attn|img_mlp|txt_mlp)\."

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """Tokens [n, L, D] and their mask [n, L], and those of the empty prompt where guidance needs them."""
        tensors = self._features("", list(prompts))
        if self.guidance > 1.0:
            tensors |= self._features("negative_", [EMPTY] * len(prompts))
        return Conditions(tensors)

    def _features(self, name: str, prompts: list[str]) -> dict[str, Tensor]:
        tokens, mask = self._pipeline.encode_prompt(prompts, max_sequence_length=self._max_sequence_length)
        if mask is None:  # the pipeline's word for "all of them"
            mask = torch.ones(tokens.shape[:2], device=tokens.device)
        missing = self._max_sequence_length - tokens.shape[1]  # rows of other calls join these: one length for all
        return {f"{name}tokens": pad(tokens, (0, 0, 0, missing)), f"{name}mask": pad(mask.bool(), (0, missing))}

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
        v = self._call(x, sigma, given["tokens"], given["mask"])
        if self.guidance > 1.0:
            away = self._call(x, sigma, given["negative_tokens"], given["negative_mask"])
            moved = stock.guided(v, away, self.guidance)
            v = moved * (v.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True))
        return stock.unpack(v, *x.shape[2:])

    def _call(self, x: Tensor, sigma: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        height, width = x.shape[2:]
        longest = int(mask.sum(dim=1).max())  # padding costs attention and changes nothing
        tokens, mask = tokens[:, :longest], mask[:, :longest]
        out: Tensor = self.network(
            hidden_states=stock.pack(x).to(tokens.dtype),
            timestep=stock.rounded_sigma(sigma, tokens.dtype),
            encoder_hidden_states=tokens,
            encoder_hidden_states_mask=None if bool(mask.all()) else mask,
            img_shapes=[[(1, height // 2, width // 2)]] * len(x),
            return_dict=False,
        )[0]
        return out.float()

    @torch.no_grad()
    def decode(self, x0: Tensor) -> Tensor:
        """Images [n, H, W, 3] uint8 on the CPU, rounded as the stock pipeline rounds."""
        config = self._vae.config
        mean, std = (
            torch.tensor(given, device=x0.device).view(1, -1, 1, 1)
            for given in (config.latents_mean, config.latents_std)
        )
        latents = (x0 * std + mean).unsqueeze(2).to(self._vae.dtype)
        return stock.to_images(self._vae.decode(latents, return_dict=False)[0].squeeze(2))

    def preview(self, x0: Tensor) -> Tensor:
        """`decode`: nobody has made a tiny decoder for these latents."""
        return self.decode(x0)

    def save_trained(self, folder: Path) -> None:
        """What was trained, as stock diffusers loads it (see `stock.save_trained`)."""
        stock.save_trained(self._pipeline, folder)

    def load_adapter(self, source: Path) -> None:
        """Copy a saved adapter (a file, or a folder that holds one) into the attached one."""
        stock.load_adapter(self.network, source)
