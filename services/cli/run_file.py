"""Read a run file, or a reward server's, with overrides; every mistake names the file and the key.

A file is the whole of it, or says `base: OTHER.yaml` and only what differs (services/cli/layered.py). An override is
one value, or with @ a whole file of them: `@deploy/configs/on-a-cpu.yaml`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from services.cli.layered import expand, merged, read_values
from services.config import RunConfig
from services.errors import ConfigError
from services.serving.config import ServingConfig

Config = TypeVar("Config", bound=BaseModel)


def load_run_file(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The validated run. Overrides are `dotted.key=value`, the value read as YAML, or `@FILE`; the last one counts.
    Raises ConfigError.
    """
    return _load(RunConfig, "run", path, overrides)


def load_serving_file(path: Path, overrides: Sequence[str] = ()) -> ServingConfig:
    """The validated configuration of a reward server; otherwise like load_run_file."""
    return _load(ServingConfig, "reward server's", path, overrides)


def _load(kind: type[Config], what: str, path: Path, overrides: Sequence[str]) -> Config:
    values = read_values(path, what)
    for override in overrides:
        if override.startswith("@"):
            values = merged(values, read_values(Path(override[1:]), "settings"))
        else:
            _apply(values, override)
    values = expand(values, os.environ, str(path))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentence(kind, path, item) for item in error.errors())) from error


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r}: expected dotted.key=value, e.g. learning.updates=50")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML: {error}") from error
    *parents, last = key.split(".")
    place: Any = values
    for part in parents:
        place = place[_number(place, part, override)] if isinstance(place, list) else place.setdefault(part, {})
        if not isinstance(place, dict | list):
            raise ConfigError(f"override {override!r}: {part} is not a block")
    place[_number(place, last, override) if isinstance(place, list) else last] = value


def _number(entries: Sequence[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(entries):
        raise ConfigError(
            f"override {override!r}: expected the number of one of {len(entries)} entries, from 0, found {part!r}"
        )
    return int(part)


def _sentence(kind: type[BaseModel], path: Path, item: ErrorDetails) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        valid = _keys_at(kind, item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), valid, n=1, cutoff=0.0)
        return f"{path}: unknown key `{place}`; the nearest valid one is `{near[0]}`" if near else f"{path}: {place}"
    if item["type"] == "missing":
        return f"{path}: `{place}` is required and absent"
    message = str(item["msg"]).removeprefix("Value error, ")
    found = "" if item["type"] == "value_error" else f", found {item['input']!r}"
    return f"{path}: `{place or 'run'}`: {message}{found}"


def _keys_at(kind: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The valid keys of the block at a location of the file."""
    model: Any = kind
    for part in location:
        if isinstance(part, int):
            continue
        model = next(
            (block for block in _kinds(model.model_fields[part].annotation) if issubclass(block, BaseModel)), kind
        )
    return list(model.model_fields)


def _kinds(annotation: object) -> list[type]:
    if isinstance(annotation, type):
        return [annotation]
    return [kind for inner in get_args(annotation) for kind in _kinds(inner)]
