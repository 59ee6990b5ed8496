"""Checkpoints: complete or absent, verified before they are believed.

    checkpoints/update_000050/
        trained.safetensors  average.safetensors  optimizer.safetensors  state.json  manifest.json

The manifest holds each file's sha256 and is written last; `checkpoint_folders` says how a checkpoint appears at once,
in a folder and in an object store. A broken checkpoint is named and the one before it is used. The learner's checkpoint
is the only truth of a run: queue and payloads can be redrawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from learner.checkpoint_folders import STATE, CheckpointFolder, open_folder

Tensors = Mapping[str, Tensor]
SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Everything a run needs to go on exactly."""

    tensors: Mapping[str, Tensors]  # {"trained": ..., "average": ..., "optimizer": ...}
    state: Mapping[str, Any]  # plain JSON: update, version, lineage, consumed ordinals, config digest


def checkpoint_name(update: int) -> str:
    """The folder of an update's checkpoint."""
    return f"update_{update:06d}"


def save_checkpoint(
    parent: Path | str,
    update: int,
    checkpoint: Checkpoint,
    keep: int,
    reached: Callable[[str], None] = lambda place: None,
) -> None:
    """Write a checkpoint atomically, then delete those of later updates, which the run went back behind because they
    were broken, and all but the newest `keep`. parent: a folder, or an fsspec URL. `reached` is told of each place at
    which a crash would leave something else behind. OSError where the place has no room, or does not answer.
    """
    folder, name = open_folder(parent), checkpoint_name(update)
    folder.write(name, _files(checkpoint), reached)
    reached("checkpoint.renamed")
    folder.prune([found for found in folder.names() if found <= name][-keep:])


def load_latest(parent: Path | str) -> tuple[Checkpoint, list[str]] | None:
    """The newest sound checkpoint, and a sentence about each broken one that was passed over; None where there is
    none at all. Raises ValueError where there are checkpoints and all are broken, OSError where a remote store does not
    answer: that is no reason to go back.
    """
    folder, complaints = open_folder(parent), list[str]()
    for name in reversed(folder.names()):
        try:
            return _load(folder, name), complaints
        except ValueError as error:
            complaints.append(str(error))
    if complaints:
        raise ValueError("no sound checkpoint: " + "; ".join(complaints))
    return None


def load_checkpoint(parent: Path | str, update: int) -> Checkpoint:
    """An update's checkpoint. ValueError where there is none, or it is broken."""
    return _load(open_folder(parent), checkpoint_name(update))


def saved_updates(parent: Path | str) -> list[int]:
    """The updates that have a checkpoint, sound or not, rising."""
    return [int(name.removeprefix("update_")) for name in open_folder(parent).names()]


def _files(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    for name, tensors in checkpoint.tensors.items():
        stored = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        yield f"{name}{SUFFIX}", safetensors.torch.save(stored)
    yield STATE, json.dumps(checkpoint.state, indent=1, sort_keys=True).encode()


def _load(folder: CheckpointFolder, name: str) -> Checkpoint:
    files = folder.read(name)
    stored = [file for file in sorted(files) if file.endswith(SUFFIX)]
    tensors = {file.removesuffix(SUFFIX): safetensors.torch.load(files[file]) for file in stored}
    return Checkpoint(tensors, json.loads(files[STATE]))
