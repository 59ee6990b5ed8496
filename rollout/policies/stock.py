"""What the families have in common around their stock pipelines: opening a folder, noise, grids, images, adapters.

Free functions and one value; a family composes them. What differs between families is in their own files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderTiny, DiffusionPipeline, SchedulerMixin
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from rollout.lora import adapter_config, adapter_state, has_adapter, load_adapter_state
from rollout.policies.build import PolicySpec
from rollout.policy import Conditions
from rollout.schedule import uniform_grid
from rollout.seeding import normal

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
PREFIX = "transformer."
"""What stock diffusers puts before the network's own names in an adapter file."""
BASE_ADAPTER = "base"
"""The name of a frozen adapter underneath: switching the trained one off by name leaves it on."""
TEXT_ENCODER = "text_encoder"
"""What the names of text encoders begin with in every stock pipeline."""


def open_pipeline(pipeline_class: type[DiffusionPipeline], spec: PolicySpec) -> DiffusionPipeline:
    """The folder's pipeline with its base adapter, every part frozen and in evaluation mode, without touching any hub.
    Components that it declares absent are passed as None, for diffusers takes a missing one for a broken folder. On the
    meta device parts have shapes and no weights, and there are no text encoders: what fits together is all it can tell.
    """
    index = json.loads((spec.folder / "model_index.json").read_text())
    parts = {name: value for name, value in index.items() if isinstance(value, list)}
    given = {name: None for name, (library, _) in parts.items() if library is None}
    if spec.device == "meta":
        configs = {name: spec.folder / name / "config.json" for name in parts}  # tokenizers and schedulers have others
        given |= {n: _hollow(config, *parts[n]) for n, config in configs.items() if config.is_file()}
    pipeline = pipeline_class.from_pretrained(
        spec.folder, dtype=getattr(torch, spec.dtype), local_files_only=True, **given
    )
    if spec.base_adapter is not None:
        _load_base_adapter(pipeline, spec.base_adapter)
    if spec.tiled_decoding:
        pipeline.vae.enable_tiling()
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
            part.to("cpu" if name.startswith(TEXT_ENCODER) and spec.encoders_wait else spec.device)
    return pipeline


def _hollow(config: Path, library: str, name: str) -> nn.Module | None:
    """A network of diffusers' with the shapes of its configuration; None in the place of transformers' networks."""
    if library != "diffusers":
        return None
    with torch.device("meta"):
        network: nn.Module = getattr(diffusers, name).from_config(json.loads(config.read_text()))
    return network


def _load_base_adapter(pipeline: DiffusionPipeline, source: Path) -> None:
    file = _adapter_file(source, "model.base_adapter")
    try:
        pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=BASE_ADAPTER)
    except RuntimeError as error:  # torch's word for shapes that differ
        raise ValueError(f"the adapter {file} does not fit: {error}; change `model.base_adapter`") from error


def place_text_encoders(pipeline: DiffusionPipeline, device: torch.device | None) -> None:
    """Move the pipeline's text encoders to a device; None gives them up."""
    for name, part in pipeline.components.items():
        if name.startswith(TEXT_ENCODER) and isinstance(part, nn.Module):
            pipeline.register_modules(**{name: None if device is None else part.to(device)})


def device_of(network: nn.Module) -> torch.device:
    """Where a network is; a pipeline's own `device` looks through all its parts and takes a thousand times as long."""
    return next(network.parameters()).device


@dataclass(frozen=True, slots=True)
class LatentLayout:
    """How a family's latents lie under an image."""

    channels: int
    reduction: int  # pixels of image per latent cell, along one side
    multiple: int  # pixels that height and width are divisible by; more than reduction where the network makes patches

    def noise(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        """Standard normal latents [n, C, H / reduction, W / reduction] float32 on the CPU. ValueError for a size that
        does not divide.
        """
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"expected a height and width divisible by {self.multiple}, found {height} x {width}; "
                "change `height` and `width` in `sampling`"
            )
        return normal(seeds, (self.channels, height // self.reduction, width // self.reduction))


def scheduler_grid(scheduler: SchedulerMixin, num_steps: int, mu: float | None = None) -> tuple[float, ...]:
    """The grid that a flow-matching Euler scheduler walks when its pipeline passes it 1, 1 - 1/K, ..., 1/K and the
    dynamic shift `mu`: K + 1 plain numbers from exactly 1 to exactly 0. ValueError where its configuration has none
    for this number of steps (a terminal stretch leaves one step undefined).
    """
    fresh = type(scheduler).from_config(scheduler.config)  # a scheduler is stateful; the pipeline keeps its own
    with np.errstate(invalid="ignore"):  # 0 / 0 is found below
        fresh.set_timesteps(sigmas=list(uniform_grid(num_steps)[:-1]), mu=mu)
    sigmas = tuple(float(sigma) for sigma in fresh.sigmas)
    if sigmas[0] != 1.0 or sigmas[-1] != 0.0:
        raise ValueError(
            f"expected a grid from 1 to 0 from the model's scheduler in {num_steps} step(s), found {list(sigmas)}; "
            "use another number of steps, or levels of your own in `sampling.sigmas`"
        )
    return sigmas


def shift_by_length(calculate_shift: Callable[..., float], config: Mapping[str, Any], num_tokens: int) -> float:
    """The dynamic shift mu for `num_tokens` image tokens, with the pipeline's own formula and defaults and the
    scheduler's configuration.
    """
    given = {
        "base_seq_len": config.get("base_image_seq_len"),
        "max_seq_len": config.get("max_image_seq_len"),
        "base_shift": config.get("base_shift"),
        "max_shift": config.get("max_shift"),
    }
    return float(calculate_shift(num_tokens, **{name: value for name, value in given.items() if value is not None}))


def pack(x: Tensor) -> Tensor:
    """Tokens [n, h/2 w/2, 4C] of 2x2 patches from latents [n, C, h, w]; channel, row, column in a token."""
    return to_tokens(pixel_unshuffle(x, 2))


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Latents [n, C, height, width] from the tokens of 2x2 patches: the inverse of `pack`."""
    return pixel_shuffle(to_planes(tokens, height // 2, width // 2), 2)


def to_tokens(planes: Tensor) -> Tensor:
    """[n, h w, C] from [n, C, h, w]."""
    return planes.flatten(2).transpose(1, 2)


def to_planes(tokens: Tensor, height: int, width: int) -> Tensor:
    """[n, C, height, width] from [n, height width, C]."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


def to_images(pixels: Tensor) -> Tensor:
    """Images [n, H, W, 3] uint8 on the CPU from pixels [n, 3, H, W] in [-1, 1], rounded as stock pipelines round."""
    pixels = (pixels.float() / 2.0 + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1)
    return (pixels * 255.0).round().to(torch.uint8).cpu()


def open_tiny_decoder(spec: PolicySpec) -> AutoencoderTiny | None:
    """The tiny decoder that the spec names, frozen. ValueError where there is none."""
    if spec.tiny_decoder is None:
        return None
    if not (spec.tiny_decoder / "config.json").is_file():
        raise ValueError(
            f"expected a folder of AutoencoderTiny, found no {spec.tiny_decoder / 'config.json'}; change "
            "`model.tiny_decoder`"
        )
    tiny = AutoencoderTiny.from_pretrained(spec.tiny_decoder, torch_dtype=getattr(torch, spec.dtype))
    return tiny.requires_grad_(False).eval().to(spec.device)


def refuse_tiny_decoder(spec: PolicySpec) -> None:
    """ValueError where a tiny decoder is named for a family whose latents none was made for."""
    if spec.tiny_decoder is not None:
        raise ValueError(
            f"expected no tiny decoder, for there is none for the latents of {spec.folder}; remove "
            "`model.tiny_decoder` (or use `model.decode_batch`)"
        )


@torch.no_grad()
def decode_tiny(tiny: AutoencoderTiny, x0: Tensor) -> Tensor:
    """Images [n, H, W, 3] uint8 on the CPU. Tiny decoders read normalised latents, up to constants of their own."""
    latents = (x0 / tiny.config.scaling_factor + tiny.config.shift_factor).to(tiny.dtype)
    return to_images(tiny.decode(latents, return_dict=False)[0])


def refuse_references(paths: Sequence[str]) -> Conditions:
    """ValueError: the family reads no reference images."""
    raise ValueError(
        f"expected no reference images, for this model family reads none, found {list(paths)}; remove `references` "
        "from the prompts"
    )


def rounded_sigma(sigma: Tensor, dtype: torch.dtype) -> Tensor:
    """Sigma as pipelines of the FLUX kind pass it: a timestep in thousands, rounded to the network's dtype before it is
    divided. In half precision the rounding moves the time embedding; the network was distilled and is served with it.
    """
    return (sigma * 1000.0).to(dtype) / 1000.0


def guided(v: Tensor, away: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598): away + guidance (v - away); 1 = v itself."""
    return away + guidance * (v - away)


def save_trained(pipeline: DiffusionPipeline, folder: Path) -> None:
    """`pytorch_lora_weights.safetensors` for `pipe.load_lora_weights(folder)`, or a `transformer/` folder where all
    weights are trained.
    """
    network = pipeline.transformer
    if not has_adapter(network):
        network.save_pretrained(folder / "transformer")
        return
    pipeline.save_lora_weights(
        folder,
        transformer_lora_layers=adapter_state(network),
        transformer_lora_adapter_metadata=adapter_config(network),
    )


def load_adapter(network: nn.Module, source: Path) -> None:
    """Copy a saved adapter (a file, or a folder that holds one) into the attached one."""
    file = _adapter_file(source, "model.init_adapter")
    with safe_open(file, "pt") as opened:
        state = {name.removeprefix(PREFIX): opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        saved = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    alpha = adapter_config(network)["lora_alpha"]
    if saved.get(f"{PREFIX}lora_alpha", alpha) != alpha:  # the tensors would fit, at another strength
        raise ValueError(
            f"the adapter {file} does not fit: lora_alpha should be {alpha:g}, is "
            f"{saved[f'{PREFIX}lora_alpha']:g}; change `model.lora.alpha`"
        )
    load_adapter_state(network, state, str(file))


def _adapter_file(source: Path, key: str) -> Path:
    file = source if source.is_file() else source / ADAPTER_FILE
    if not file.is_file():
        raise ValueError(f"expected an adapter at {file}, found none; change `{key}`")
    return file
