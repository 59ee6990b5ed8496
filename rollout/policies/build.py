"""Choose the family's policy for a pipeline folder. No torch before a policy is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rollout.policy import Policy

FAMILIES = {
    "StableDiffusion3Pipeline": "rollout.policies.sd3:load",
    "Flux2KleinPipeline": "rollout.policies.flux2_klein:load",
    "FluxPipeline": "rollout.policies.flux1:load",
    "SanaSprintPipeline": "rollout.policies.sana_sprint:load",
    "ZImagePipeline": "rollout.policies.z_image:load",
    "QwenImagePipeline": "rollout.policies.qwen_image:load",
}
"""Pipeline class in `model_index.json` -> the function that loads the family."""

TAKE_REFERENCES = ("Flux2KleinPipeline",)
"""Those whose prompts may name reference images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """How to load a pipeline folder."""

    folder: Path
    dtype: str = "float32"  # torch's name, of the network; the kernel is float32 always
    device: str = "cpu"  # meta: shapes without weights, to see what fits together
    guidance: float = 1.0  # scale; 1 = none, but an input like any other where the network was distilled to take one
    max_sequence_length: int = 256  # text tokens, as in a call of the stock pipeline
    encoders_wait: bool = False  # text encoders stay on the CPU until they are placed
    tiny_decoder: Path | None = None  # a folder of diffusers' AutoencoderTiny, for `preview`
    tiled_decoding: bool = False  # the autoencoder works on overlapping tiles, as the stock pipeline's own can
    base_adapter: Path | None = None  # frozen under what is trained, in the reference too; a file, or its folder


def pipeline_class(folder: Path) -> str:
    """The pipeline class that a folder declares. ValueError naming the folder where it is none, or one unknown."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"expected a diffusers pipeline folder, found no {index}; change `model.path`")
    try:
        declared = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{index}: not JSON: {error}; change `model.path`") from error
    name = str(declared.get("_class_name")) if isinstance(declared, dict) else "no class"
    if name not in FAMILIES:
        raise ValueError(f"{index} declares {name}; supported are {', '.join(FAMILIES)}; change `model.path`")
    return name


def load_policy(spec: PolicySpec) -> Policy:
    """The policy of the folder's family, its network in evaluation mode."""
    module, _, function = FAMILIES[pipeline_class(spec.folder)].partition(":")
    load: Callable[[PolicySpec], Policy] = getattr(import_module(module), function)
    return load(spec)
