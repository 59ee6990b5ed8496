"""Write the quickstart's prompt files: python deploy/quickstart/recipe/prompts.py deploy/quickstart/prompts"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from render import COLOURS, HELD_OUT, NUMBERS, prompt


def write(path: Path, numbers: list[str]) -> None:
    """One line per number and colour."""
    lines = [
        json.dumps({"text": prompt(number, colour), "metadata": {"target": number}})
        for number in numbers
        for colour in COLOURS
    ]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write(folder / "train.jsonl", [number for number in NUMBERS if number not in HELD_OUT])
    write(folder / "held_out.jsonl", list(HELD_OUT))
