"""The pictures that `tafs score` is given: files, folders, and CSV files with prompts and metadata."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from services.errors import ConfigError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture to be scored."""

    path: Path
    prompt: str
    metadata: Mapping[str, Any]


def find_pictures(paths: Sequence[Path], prompt: str, metadata: Mapping[str, Any]) -> list[Picture]:
    """The pictures behind the paths, in order; a folder's by name, without its subfolders.

    A CSV file has the columns `image`, a path beside it, and perhaps `prompt` and `metadata`, a JSON object; every
    other column is metadata, too, as text. prompt and metadata hold wherever nothing else is said. Raises ConfigError.
    """
    found = [picture for path in paths for picture in _found(path, prompt, metadata)]
    if not found:
        raise ConfigError(f"expected pictures behind {', '.join(map(str, paths))}; found none")
    return found


def load_picture(picture: Picture) -> NDArray[np.uint8]:
    """The picture's pixels [H, W, 3] uint8 RGB. Raises ConfigError for what is no picture."""
    try:
        with Image.open(picture.path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConfigError(f"expected a picture at {picture.path}; found: {error}") from error


def _found(path: Path, prompt: str, metadata: Mapping[str, Any]) -> Iterator[Picture]:
    if path.suffix == ".csv" and path.is_file():
        yield from _listed(path, prompt, metadata)
    elif path.is_file():
        yield Picture(path=path, prompt=prompt, metadata=metadata)
    elif path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ConfigError(f"expected pictures ({', '.join(SUFFIXES)}) in the folder {path}; found none")
        yield from (Picture(path=file, prompt=prompt, metadata=metadata) for file in files)
    else:
        raise ConfigError(f"expected a picture, a folder or a CSV file at {path}; found none")


def _listed(path: Path, prompt: str, metadata: Mapping[str, Any]) -> Iterator[Picture]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="?")
        if "image" not in (reader.fieldnames or ()):
            raise ConfigError(
                f"{path}: expected a column `image`; found {', '.join(reader.fieldnames or ()) or 'none'}"
            )
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if "?" in row or None in row.values():
                raise ConfigError(f"{place}: expected {len(reader.fieldnames or ())} values; found more or fewer")
            given = _object(row.pop("metadata", "") or "{}", place)
            image, text = row.pop("image"), row.pop("prompt", prompt)
            yield Picture(path=path.parent / image, prompt=text, metadata={**metadata, **row, **given})


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{place}: expected JSON under `metadata`; found: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{place}: expected a JSON object under `metadata`; found {text!r}")
    return found
