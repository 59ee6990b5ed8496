"""Checkpoints: complete or absent, verified before they are believed.

    checkpoints/update_000050/
        trained.safetensors  average.safetensors  optimizer.safetensors  state.json  manifest.json

A checkpoint is written into a temporary folder, every file is flushed to disk, the manifest with each file's sha256 is
written last, and the folder is renamed into place. Reading checks the manifest first; a broken checkpoint is named and
the one before it is used. The learner's checkpoint is the only truth of a run: queue and payloads can be redrawn.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = Mapping[str, Tensor]
MANIFEST = "manifest.json"
STATE = "state.json"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Everything a run needs to go on exactly."""

    tensors: Mapping[str, Tensors]  # {"trained": ..., "average": ..., "optimizer": ...}
    state: Mapping[str, Any]  # plain JSON: update, version, lineage, consumed ordinals, config digest


def checkpoint_name(update: int) -> str:
    """The folder of an update's checkpoint."""
    return f"update_{update:06d}"


def save_checkpoint(
    parent: Path, update: int, checkpoint: Checkpoint, keep: int, reached: Callable[[str], None] = lambda place: None
) -> Path:
    """Write a checkpoint atomically, then delete those of later updates, which the run went back behind because they
    were broken, and all but the newest `keep`. Returns its folder. `reached` is told of each place at which a crash
    would leave something else behind.
    """
    parent.mkdir(parents=True, exist_ok=True)
    final = parent / checkpoint_name(update)
    draft = parent / f".{final.name}.tmp-{uuid.uuid4().hex[:8]}"
    draft.mkdir()
    for name, tensors in checkpoint.tensors.items():
        save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, draft / f"{name}.safetensors")
        reached("checkpoint.file")
    (draft / STATE).write_text(json.dumps(checkpoint.state, indent=1, sort_keys=True))
    reached("checkpoint.files")
    files = sorted(path for path in draft.iterdir())
    manifest = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (draft / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*files, draft / MANIFEST, draft]:
        _flush(path)
    if final.exists():  # left by a lineage that was rolled back
        shutil.rmtree(final)
    draft.rename(final)
    reached("checkpoint.renamed")
    _flush(parent)
    folders = _complete(parent)
    newest = folders.index(final) + 1
    for other in [*folders[newest:], *folders[:newest][:-keep]]:
        shutil.rmtree(other)
    return final


def load_latest(parent: Path) -> tuple[Checkpoint, list[str]] | None:
    """The newest sound checkpoint, and a sentence about each broken one that was passed over; None where there is
    none at all. Raises ValueError where there are checkpoints and all are broken.
    """
    complaints: list[str] = []
    folders = _complete(parent) if parent.is_dir() else []
    for folder in reversed(folders):
        problem = _problem(folder)
        if problem is None:
            return _load(folder), complaints
        complaints.append(problem)
    if complaints:
        raise ValueError("no sound checkpoint: " + "; ".join(complaints))
    return None


def load_checkpoint(parent: Path, update: int) -> Checkpoint:
    """An update's checkpoint. ValueError where there is none, or it is broken."""
    folder = parent / checkpoint_name(update)
    if problem := _problem(folder):
        raise ValueError(problem)
    return _load(folder)


def saved_updates(parent: Path) -> list[int]:
    """The updates that have a checkpoint, sound or not, rising."""
    return [int(folder.name.removeprefix("update_")) for folder in _complete(parent)]


def _load(folder: Path) -> Checkpoint:
    tensors = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    return Checkpoint(tensors, json.loads((folder / STATE).read_text()))


def _problem(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if not isinstance(manifest, dict) or STATE not in manifest:
            return f"{folder / MANIFEST}: expected the sha256 of {STATE} and every other file, found {manifest!r:.60}"
        for name, sha in manifest.items():
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            if found != sha:
                return f"{folder / name}: expected sha256 {sha[:12]}, found {found[:12]}"
    except (OSError, ValueError) as error:
        return f"{folder}: {error}"
    return None


def _complete(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("update_*") if path.is_dir())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
