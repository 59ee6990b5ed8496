"""The quickstart's figures: seeds that were not used for tuning, and two controls that must learn nothing.

    python -m tests.benchmarks.quickstart_figures [--runs FOLDER] [--seeds 1 2 3] [--controls]

A run that is already complete in FOLDER is read, not repeated. Prints a Markdown table, and a second one of what stock
diffusers makes of the seeds' adapters (stock_figures.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.stock_figures import table

ROOT = Path(__file__).resolve().parents[2]
RUN_FILE = "deploy/configs/quickstart.yaml"
CONTROLS = {
    "rewards shuffled within the group": ["learning.advantage.shuffle_rewards=true"],
    "same-step pairing (the credit trap)": ["learning.advantage.mode=same_step"],
}


def summary_of(folder: Path, name: str, overrides: list[str]) -> dict:
    """The summary of a run, which is run first where it is not complete."""
    path = folder / name / "summary.json"
    if not path.exists():
        command = [sys.executable, "-m", "services", "train", RUN_FILE, f"runs={folder}", f"name={name}", *overrides]
        subprocess.run(command, cwd=ROOT, check=True)
    return json.loads(path.read_text())


def row(title: str, summary: dict) -> str:
    """One line of the table."""
    cells = [title]
    for metric, sampler in (("exact_match", "serving"), ("exact_match", "tau_0"), ("judge_exact_match", "serving")):
        figure = summary[metric][sampler]
        low, high = figure["interval_95"]["after"]
        cells.append(f"{figure['before']:.3f} -> {figure['after']:.3f} [{low:.3f}, {high:.3f}]")
    images = summary["exact_match"]["serving"]["images"]["after"]
    cells += [str(images), f"{summary['images']}", f"{summary['wall_seconds']:.0f} s", f"{summary['utilisation']:.2f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/figures"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--controls", action="store_true")
    arguments = parser.parse_args()
    runs = arguments.runs.resolve()
    rows = [row(f"seed {seed}", summary_of(runs, f"seed-{seed}", [f"seed={seed}"])) for seed in arguments.seeds]
    if arguments.controls:
        rows += [
            row(title, summary_of(runs, f"control-{index}", ["seed=1", *overrides]))
            for index, (title, overrides) in enumerate(CONTROLS.items())
        ]
    print(
        "| run | exact match, serving | exact match, tau 0 | judge, serving | images each | images trained on "
        "| training | utilisation |"
    )
    print("|" + "---|" * 8)
    print("\n".join(rows))
    print("\nStock diffusers:\n")
    print(table([runs / f"seed-{seed}" for seed in arguments.seeds]))


if __name__ == "__main__":
    main()
