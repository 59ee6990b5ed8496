"""Finds and loads published checkpoints: from a local folder, or by their id from the Hugging Face hub.

A manifest (`manifests/NAME.json`) lists a published checkpoint's tensors, `{0..23}` in a name standing for one tensor
per number. It is written down from the published code, so that key names can be tested where the weights, gigabytes
of them, are not at hand; the weights themselves were not read.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from torch import Tensor, nn

from rewards.reward import MissingModelError

MANIFESTS = Path(__file__).with_name("manifests")

_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")


def checkpoint_file(source: str, name: str) -> Path:
    """The file `name` of a checkpoint: inside the local folder `source`, or of the hub repository of that id.

    Raises MissingModelError if neither has it.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise MissingModelError(f"expected {name} in the folder {source}; found none; download it from the hub")
        return folder / name
    try:
        return Path(hf_hub_download(source, name))
    except (OSError, ValueError) as error:
        raise MissingModelError(_not_found(source, error)) from error


def load_pretrained(kind: Any, source: str, **options: Any) -> Any:  # noqa: ANN401  # transformers has no types
    """A transformers model in float32, for inference, from a local folder or a hub id.

    kind: the class, such as transformers.CLIPModel. options: passed to from_pretrained. Raises MissingModelError if it
    is not there or lacks tensors, which transformers itself would fill at random.
    """
    try:
        model, report = kind.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **options)
    except (OSError, ValueError) as error:
        raise MissingModelError(_not_found(source, error)) from error
    if missing := sorted(report["missing_keys"]):
        raise MissingModelError(
            f"expected every tensor of {kind.__name__} in {source}; found {len(missing)} missing, the first "
            f"{missing[0]}; it is another model's checkpoint"
        )
    return model.eval().requires_grad_(False)


def load_tokenizer(kind: Any, source: str, **options: Any) -> Any:  # noqa: ANN401  # transformers has no types
    """A transformers tokenizer from a local folder or a hub id. Raises MissingModelError if it is not there."""
    try:
        return kind.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise MissingModelError(_not_found(source, error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a PyTorch file, from which nothing but tensors is unpickled.

    A file that holds them under `state_dict`, as training checkpoints do, gives that. Raises MissingModelError for a
    file without tensors.
    """
    if path.suffix == ".safetensors":
        return load_file(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise MissingModelError(f"expected a dictionary of tensors in {path}; found {type(found).__name__}")
    return {str(key): value for key, value in state.items()}


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Put the tensors into the module, float32, every one of them and nothing else; it then is ready for inference.

    The module may lie on the meta device: its tensors are replaced, not filled. Raises MissingModelError, naming the
    origin, where keys or shapes differ.
    """
    try:
        module.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise MissingModelError(
            f"expected the tensors of {type(module).__name__} in {origin}; found: {error}"
        ) from error
    module.eval().requires_grad_(False)


def manifest(name: str) -> dict[str, tuple[int, ...]]:
    """Key names and shapes of the published checkpoint `name`."""
    tensors = json.loads((MANIFESTS / f"{name}.json").read_text("utf-8"))["tensors"]
    return {key: tuple(shape) for pattern, shape in tensors.items() for key in _expanded(pattern)}


def _expanded(pattern: str) -> list[str]:
    numbers = _NUMBERS.search(pattern)
    if numbers is None:
        return [pattern]
    first, last = int(numbers[1]), int(numbers[2])
    return [pattern.replace(numbers[0], str(index)) for index in range(first, last + 1)]


def _not_found(source: str, error: Exception) -> str:
    return (
        f"expected a folder or a hub repository at {source!r}; found: {error}; "
        "change it under rewards[i].options in the run file"
    )
