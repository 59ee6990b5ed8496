"""`tafs failed`: the dead letters of a run, listed, shown, tried again or thrown away."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from services.data.address import find_server
from services.data.letters import DeadLetters, Letter
from services.data.server import connect
from services.errors import ConfigError


def open_letters(folder: Path) -> DeadLetters:
    """The dead letters of the run of this folder. Raises ConfigError."""
    return DeadLetters(connect(find_server(folder, os.environ)), folder.resolve().name)


def list_letters(folder: Path, console: Console) -> None:
    """Print one line for each letter."""
    letters = open_letters(folder).all()
    table = Table("group", "attempt", "stage", "ago", "reason", "prompt", box=None)
    for letter in letters:
        group = letter.group()
        ago = f"{max(time.time() - letter.unix_time, 0.0):.0f} s"
        prompt = "" if group is None else group.prompt.text
        cells = (str(letter.ordinal), str(letter.attempt), letter.stage, ago, letter.reason, prompt)
        table.add_row(*(cell.replace("[", "\\[") for cell in cells))
    if letters:
        console.print(table)
    console.print(f"{len(letters)} dead letter{'' if len(letters) == 1 else 's'}", highlight=False)


def letter_as_json(folder: Path, ordinal: int) -> str:
    """A letter with everything that is known of it. ConfigError if there is none."""
    [letter] = _found(open_letters(folder).all(), [ordinal])
    return json.dumps(letter.described(), indent=1)


def settle_letters(folder: Path, ordinals: Sequence[int], *, every: bool, retry: bool) -> tuple[int, ...]:
    """Try letters again, or drop them; their groups. ConfigError for a group without a letter, or for none at all."""
    if every == bool(ordinals):
        raise ConfigError("expected the numbers of groups, or --all: see `tafs failed ls`")
    box = open_letters(folder)
    letters = box.all()
    chosen = letters if every else _found(letters, ordinals)
    settle = box.retry if retry else box.drop
    return settle([letter.ordinal for letter in chosen])


def _found(letters: Sequence[Letter], ordinals: Sequence[int]) -> list[Letter]:
    by_ordinal = {letter.ordinal: letter for letter in letters}
    if missing := [ordinal for ordinal in ordinals if ordinal not in by_ordinal]:
        raise ConfigError(
            f"expected a dead letter of group {missing[0]}, found those of {sorted(by_ordinal) or 'no group'}"
        )
    return [by_ordinal[ordinal] for ordinal in ordinals]
