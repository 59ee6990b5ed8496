"""Stable Diffusion 3 and 3.5: any `StableDiffusion3Pipeline` folder, with or without its T5 encoder.

Facts of the family: the transformer predicts v = eps - x0; its timestep is 1000 sigma; latents are unpacked
[16, H/8, W/8] in the large models, normalised as (z - shift) * scaling with the constants of `vae.config`; pooled CLIP
projections travel beside the tokens. Without T5 the pipeline appends `max_sequence_length` zero tokens, unmasked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from safetensors import safe_open
from torch import Tensor, nn

from rollout.lora import adapter_config, adapter_state, has_adapter, load_adapter_state
from rollout.policies.build import PolicySpec
from rollout.policy import Conditions
from rollout.schedule import shifted_grid
from rollout.seeding import normal

ADAPTER_FILE = "pytorch_lora_weights.safetensors"


def load(spec: PolicySpec) -> SD3Policy:
    """Load the folder without touching any hub. Components that it declares absent (T5) are passed as None, for
    diffusers takes a missing one for a broken folder.
    """
    index = json.loads((spec.folder / "model_index.json").read_text())
    absent = {name: None for name, value in index.items() if isinstance(value, list) and value[0] is None}
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        spec.folder, dtype=getattr(torch, spec.dtype), local_files_only=True, **absent
    ).to(spec.device)
    return SD3Policy(pipeline, spec.guidance, spec.max_sequence_length)


class SD3Policy:
    """The five verbs for Stable Diffusion 3 (see `rollout.policy.Policy`)."""

    adapter_targets = r"^(transformer_blocks\.|context_embedder|time_text_embed\.|norm_out\.|proj_out)"

    def __init__(self, pipeline: StableDiffusion3Pipeline, guidance: float, max_sequence_length: int) -> None:
        for part in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3):
            if part is not None:
                part.requires_grad_(False).eval()
        self._pipeline = pipeline
        self._vae = pipeline.vae
        self._guidance = guidance
        self._max_sequence_length = max_sequence_length
        self.network: nn.Module = pipeline.transformer.requires_grad_(False).eval()

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
        reduction = self._pipeline.vae_scale_factor
        multiple = reduction * self._pipeline.patch_size
        if height % multiple or width % multiple:
            raise ValueError(
                f"expected a height and width divisible by {multiple}, found {height} x {width}; "
                "change `sampling.height` and `sampling.width`"
            )
        channels = self._pipeline.transformer.config.in_channels
        return normal(seeds, (channels, height // reduction, width // reduction)).to(self._pipeline.device)

    def sigmas(self, num_steps: int, height: int, width: int) -> tuple[float, ...]:
        """The scheduler's own shift applied to a uniform grid that ends at exactly 0."""
        return shifted_grid(num_steps, float(self._pipeline.scheduler.config.shift))

    def velocity(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """V = eps - x0 in float32, with classifier-free guidance where the policy was given a scale above 1."""
        given = conditions.tensors
        v = self._call(x, sigma, given["tokens"], given["pooled"])
        if self._guidance > 1.0:
            away = self._call(x, sigma, given["negative_tokens"], given["negative_pooled"])
            v = away + self._guidance * (v - away)
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
        pixels: Tensor = self._vae.decode(latents, return_dict=False)[0].float()
        pixels = (pixels / 2.0 + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1)
        return (pixels * 255.0).round().to(torch.uint8).cpu()

    def save_trained(self, folder: Path) -> None:
        """`pytorch_lora_weights.safetensors` for `pipe.load_lora_weights(folder)`, or a `transformer/` folder where
        all weights are trained.
        """
        if not has_adapter(self.network):
            self._pipeline.transformer.save_pretrained(folder / "transformer")
            return
        config = adapter_config(self.network)
        StableDiffusion3Pipeline.save_lora_weights(
            folder, transformer_lora_layers=adapter_state(self.network), transformer_lora_adapter_metadata=config
        )

    def load_adapter(self, source: Path) -> None:
        """Copy a saved adapter (a file, or a folder that holds one) into the attached one."""
        file = source if source.is_file() else source / ADAPTER_FILE
        if not file.is_file():
            raise ValueError(f"expected an adapter at {file}, found none; change `model.init_adapter`")
        with safe_open(file, "pt") as opened:
            state = {name.removeprefix("transformer."): opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            saved = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
        alpha = adapter_config(self.network)["lora_alpha"]
        if saved.get("transformer.lora_alpha", alpha) != alpha:  # the tensors would fit, at another strength
            raise ValueError(
                f"the adapter {file} does not fit: lora_alpha should be {alpha:g}, is "
                f"{saved['transformer.lora_alpha']:g}; change `model.lora.alpha`"
            )
        load_adapter_state(self.network, state, str(file))
