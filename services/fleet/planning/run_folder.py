"""The run folder: one owner at a time, the configuration it was made with, and what must be equal to go on."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from learner.checkpoint_folders import open_folder
from services.config import RunConfig
from services.data.whole_file import write_whole
from services.errors import ConfigError

MAY_DIFFER = ("fleet", "runs")
"""Blocks that may change between starts of one run: they say where it runs, not what it computes."""
MUST_STAY = ("fleet.max_staleness",)


@contextmanager
def owned(config: RunConfig, *, fresh: bool) -> Iterator[Path]:
    """The run folder, locked for the time of the context, with config.yaml and run.json in it.

    A folder of an earlier start goes on if its configuration and inputs are the same, else ConfigError shows the
    difference; `fresh` moves it aside instead. ConfigError where the folder cannot be written.
    """
    folder = config.folder
    try:
        if fresh:
            _set_aside(config, f"until-{time.strftime('%Y%m%d-%H%M%S')}")
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"cannot write the run folder {folder}: {error}; change `runs` or `name`") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{folder} belongs to a run that is going on; use another `name`, or stop it") from error
        _settle(config, folder)
        yield folder


def _settle(config: RunConfig, folder: Path) -> None:
    resolved = config.model_dump(mode="json")
    inputs = input_digests(config)
    path = folder / "config.yaml"
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if path.exists():
        before, made = yaml.safe_load(path.read_text()), json.loads((folder / "run.json").read_text())
        began = made.get("began", began)  # folders of earlier releases lack it
        changes = difference(_compared(before), _compared(resolved))
        changes += difference(made["inputs"], inputs)
        if changes:
            raise ConfigError(
                f"run {config.name!r} was started with another configuration:\n  "
                + "\n  ".join(changes)
                + "\nuse another `name`, undo the change, or start anew with --fresh"
            )
    made_now = {"began": began, "inputs": inputs, **provenance()}
    write_whole(folder / "run.json", json.dumps(made_now, indent=1))
    write_whole(path, yaml.safe_dump(resolved, sort_keys=False))  # last: where it is, the other is, too


def _set_aside(config: RunConfig, mark: str) -> None:
    if config.folder.exists():
        config.folder.rename(config.folder.with_name(f"{config.folder.name}.{mark}"))
    if config.fleet.checkpoints is not None:
        open_folder(checkpoints_of(config, config.folder)).set_aside(mark)


def checkpoints_of(config: RunConfig, folder: Path) -> Path | str:
    """Where the run of that folder has its checkpoints: in it, or below a URL."""
    url = config.fleet.checkpoints
    return folder / "checkpoints" if url is None else f"{url.rstrip('/')}/{config.name}"


def recorded_config(folder: Path) -> RunConfig:
    """The configuration that the folder was made with. ConfigError where it is no run's, where its inputs have changed
    since, or where it is another version's.
    """
    path, provenance_path = folder / "config.yaml", folder / "run.json"
    if not path.is_file() or not provenance_path.is_file():
        raise ConfigError(f"expected a run folder with config.yaml and run.json, found {folder}")
    try:
        config = RunConfig.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        raise ConfigError(f"{path}: written by another version of the code: {error}") from error
    changes = difference(json.loads(provenance_path.read_text())["inputs"], input_digests(config))
    if changes:
        raise ConfigError(f"{folder}: inputs have changed since the run:\n  " + "\n  ".join(changes))
    return config


def recorded_provenance(folder: Path) -> dict[str, Any]:
    """The folder's run.json: when its first start was, and what its last start ran."""
    made: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return made


def config_digest(config: RunConfig) -> str:
    """sha256 of what must stay equal over all starts of a run."""
    text = json.dumps(_compared(config.model_dump(mode="json")), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def input_digests(config: RunConfig) -> dict[str, str]:
    """sha256 of the prompt files, and of the model and adapters where they are local."""
    files = {"sampling.prompts": config.sampling.prompts}
    if config.model.revision is None:  # a commit says it all
        files["model.path"] = config.model.path
    if config.evaluation is not None:
        files["evaluation.prompts"] = config.evaluation.prompts
    if config.model.init_adapter is not None:
        files["model.init_adapter"] = config.model.init_adapter
    if config.model.base_adapter is not None:
        files["model.base_adapter"] = config.model.base_adapter
    return {name: _digest(path) for name, path in files.items()}


def provenance() -> dict[str, Any]:
    """The commit that runs, and the versions of what it stands on."""
    packages = ("torch", "diffusers", "transformers", "peft", "ray", "redis")
    return {"commit": _commit() or "unknown", "versions": {name: version(name) for name in packages}}


def _commit() -> str:
    """Of the code's own checkout; empty where it is installed without one, or without git, as in an image."""
    if shutil.which("git") is None:
        return ""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    here = Path(__file__).resolve().parent
    return subprocess.run(describe, cwd=here, capture_output=True, text=True, check=False, timeout=30).stdout.strip()


def difference(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line per setting that differs: `key: before -> after`."""
    lines = []
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += difference(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old!r} -> {new!r}")
    return lines


def _compared(resolved: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in resolved.items() if key not in MAY_DIFFER}
    for dotted in MUST_STAY:
        block, _, key = dotted.partition(".")
        kept[dotted] = resolved.get(block, {}).get(key)
    return kept


def _digest(path: Path) -> str:
    sha = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            sha.update(f"{file.relative_to(path) if path.is_dir() else file.name}|".encode())
            with file.open("rb") as content:
                while chunk := content.read(1 << 20):
                    sha.update(chunk)
    return sha.hexdigest()
