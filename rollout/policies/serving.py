"""How a stock pipeline is called for what a policy samples: the arguments that differ between families. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from rollout.policies.build import pipeline_class

Arguments = Mapping[str, object]


def takes_guidance(folder: Path) -> bool:
    """Whether guidance is an input of the folder's network."""
    config = json.loads((folder / "transformer" / "config.json").read_text())
    return bool(config.get("guidance_embeds"))


def _guidance_scale(folder: Path, num_steps: int, guidance: float) -> Arguments:
    return {"guidance_scale": guidance}


def _flux1(folder: Path, num_steps: int, guidance: float) -> Arguments:
    if takes_guidance(folder) or guidance == 1.0:
        return {"guidance_scale": guidance}
    return {"true_cfg_scale": guidance, "negative_prompt": ""}


def _sana_sprint(folder: Path, num_steps: int, guidance: float) -> Arguments:
    plain = {"guidance_scale": guidance, "use_resolution_binning": False}  # else drawn at another size and resized
    return plain if num_steps == 2 else plain | {"intermediate_timesteps": None}  # which two steps alone have


def _z_image(folder: Path, num_steps: int, guidance: float) -> Arguments:
    return {"guidance_scale": guidance - 1.0}  # its scale 0 is ours of 1


def _qwen_image(folder: Path, num_steps: int, guidance: float) -> Arguments:
    plain = {"true_cfg_scale": guidance}
    return plain if guidance == 1.0 else plain | {"negative_prompt": " "}


ARGUMENTS: dict[str, Callable[[Path, int, float], Arguments]] = {
    "StableDiffusion3Pipeline": _guidance_scale,
    "Flux2KleinPipeline": _guidance_scale,
    "FluxPipeline": _flux1,
    "SanaSprintPipeline": _sana_sprint,
    "ZImagePipeline": _z_image,
    "QwenImagePipeline": _qwen_image,
}
"""Pipeline class in `model_index.json` -> arguments of its call from folder, number of steps and our guidance."""


def stock_arguments(folder: Path, num_steps: int, guidance: float) -> Arguments:
    """What a call of the folder's stock pipeline takes, beside prompt, size, steps and sequence length, to draw what
    its policy draws with this guidance.
    """
    return ARGUMENTS[pipeline_class(folder)](folder, num_steps, guidance)
