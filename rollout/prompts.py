"""Prompt files, and the run's order of prompts as a function of the ordinal, so that a resumed run goes on exactly."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rollout.seeding import named_seed
from rollout.types import Prompt


def load_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read JSON lines {"text": ..., "metadata": {...}, "references": [...]}; the id is the line number. ValueError
    naming file and line for anything else, and for an empty file. References are paths relative to the file.
    """
    if not path.is_file():
        raise ValueError(f"expected a prompt file, found none at {path}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would break a text at U+2028 or U+0085
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 ({error})") from error
    prompts = tuple(_parse(line, path, number) for number, line in enumerate(lines, start=1) if line.strip())
    if not prompts:
        raise ValueError(f"{path}: expected one JSON object per line, found no line")
    return prompts


def _parse(line: str, path: Path, number: int) -> Prompt:
    place = f"{path}:{number}"
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: expected a JSON object, found {line[:60]!r} ({error})") from error
    if not isinstance(entry, Mapping) or not isinstance(entry.get("text"), str) or not entry["text"].strip():
        raise ValueError(f'{place}: expected an object with a non-empty "text", found {line[:60]!r}')
    unknown = entry.keys() - {"text", "metadata", "references"}
    if unknown:
        raise ValueError(f"{place}: unknown key {sorted(unknown)[0]!r}; expected text, metadata, references")
    metadata = entry.get("metadata", {})
    if not isinstance(metadata, Mapping):
        raise ValueError(f'{place}: expected "metadata" to be an object, found {metadata!r}')
    references = entry.get("references", [])
    if not isinstance(references, list) or not all(isinstance(reference, str) for reference in references):
        raise ValueError(f'{place}: expected "references" to be a list of strings, found {references!r}')
    if urls := [reference for reference in references if "://" in reference]:
        raise ValueError(f"{place}: expected references to be paths of images, found the URL {urls[0]}; fetch it first")
    return Prompt(
        id=str(number),
        text=entry["text"],
        metadata=dict(metadata),
        references=tuple(str(path.parent / reference) for reference in references),
    )


@dataclass(frozen=True, slots=True)
class PromptOrder:
    """Which prompt each ordinal gets: pass after pass over all prompts, each in a new seeded order."""

    prompts: Sequence[Prompt]
    seed: int

    def at(self, ordinal: int) -> Prompt:
        """The prompt of the group with this ordinal."""
        turn, place = divmod(ordinal, len(self.prompts))
        return self.prompts[_permutation(len(self.prompts), named_seed("order", self.seed, turn))[place]]


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return tuple(order)
