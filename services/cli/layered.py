"""YAML files that build on one another, with values from the environment.

    base: 1gpu.yaml                               everything that this file does not say; relative to this file
    model: {path: "${TAFS_MODELS:-models}/x"}     a variable, and what stands there where it is not set

Blocks are merged key by key; a list or a value takes the place of the base's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from services.errors import ConfigError

BASE = "base"
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<otherwise>:-[^}]*)?\}")


def read_values(path: Path, what: str, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's keys and values over those of its bases. what: for the message, e.g. "run". Raises ConfigError."""
    if not path.is_file():
        said = f", the base of {below[-1]}" if below else ""
        raise ConfigError(f"expected a {what} file, found none at {path}{said}")
    if path.resolve() in (file.resolve() for file in below):
        raise ConfigError(f"{below[-1]}: its `base` comes back to itself: {' -> '.join(map(str, (*below, path)))}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    base = values.pop(BASE, None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: `base`: expected the path of a {what} file, found {base!r}")
    return merged(read_values(path.parent / base, what, (*below, path)), values)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, `over` where both say something; blocks key by key."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def expand(value: Any, environment: Mapping[str, str], place: str) -> Any:  # noqa: ANN401 - plain YAML
    """The value with `${NAME}` and `${NAME:-otherwise}` replaced in all texts. ConfigError for a name not set."""
    if isinstance(value, dict):
        return {key: expand(inner, environment, f"{place}: `{key}`") for key, inner in value.items()}
    if isinstance(value, list):
        return [expand(inner, environment, place) for inner in value]
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        name, otherwise = match["name"], match["otherwise"]
        if name in environment:
            return environment[name]
        if otherwise is None:
            raise ConfigError(f"{place}: expected the environment variable {name}, found it not set; export it")
        return otherwise.removeprefix(":-")

    return _VARIABLE.sub(found, value)
