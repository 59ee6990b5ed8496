"""Make a family's twin: a tiny pipeline of the stock classes with random weights, saved as a real folder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

TWINS = {
    "sd3": "rollout.policies.twins.sd3",
    "flux1": "rollout.policies.twins.flux1",
    "flux2_klein": "rollout.policies.twins.flux2_klein",
    "sana_sprint": "rollout.policies.twins.sana_sprint",
    "z_image": "rollout.policies.twins.z_image",
    "qwen_image": "rollout.policies.twins.qwen_image",
}
"""Family -> the module whose `build()` makes its pipeline."""


def save_twin(family: str, folder: Path) -> Path:
    """The family's twin in `folder`, the same every time. ValueError for a family that there is not."""
    if family not in TWINS:
        raise ValueError(f"expected a family, one of {', '.join(TWINS)}; found {family!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline: Any = import_module(TWINS[family]).build()
    return save_random(pipeline, folder)


def save_random(pipeline: DiffusionPipeline, folder: Path) -> Path:
    """Save a pipeline after moving every parameter of its network, for some layers start at zero and hide others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in pipeline.transformer.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    pipeline.save_pretrained(folder)
    return folder
