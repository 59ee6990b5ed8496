"""Does reinforcement learning gain as much on a second family? The quickstart's run on a tiny FLUX.2-klein.

    python -m tests.second_family.study [--out runs/second-family] [--model FOLDER] [--seeds 1 2 3]
        [--settings KEY=VALUE ...]

Trains the base model first where there is none (base.py), then makes the runs that FOLDER/runs.jsonl lacks, each in
this process alone: the seeds, and the first one with rewards shuffled within groups, which must learn nothing. Prints a
Markdown table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from services.cli.run_file import load_run_file
from services.observe.summary import wilson_interval
from tests.ablation.arms import Arm
from tests.ablation.study import commit, read_records, run_of
from tests.second_family.base import FLOW_UPDATES, train_base

HERE = Path(__file__).resolve().parent
SHUFFLED = "learning.advantage.shuffle_rewards=true"


def wanted(seeds: Sequence[int]) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """The runs: title, seed, settings."""
    for seed in seeds:
        yield f"seed {seed}", seed, ()
    yield f"seed {seeds[0]}, rewards shuffled", seeds[0], (SHUFFLED,)


def make_run(settings: Sequence[str], untrained: dict[str, float] | None) -> dict[str, Any]:
    """One run with the run file's number of updates and its staleness."""
    config = load_run_file(HERE / "run.yaml", settings)
    images = config.learning.updates * config.learning.groups_per_update * config.sampling.samples_per_group
    return {
        **run_of(config, Arm(staleness=config.fleet.max_staleness), images, images + 1, untrained),
        "commit": commit(),
    }


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Before and after in Markdown, with 95 % Wilson intervals of the last figures."""
    lines = [
        "| run | exact match, serving | gain | tau 0, after | judge, after | images | trained on | training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        before, after = record["curve"][0], record["curve"][-1]
        low, high = wilson_interval(after["serving"], after["evaluated"])
        lines.append(
            f"| {record['title']} | {before['serving']:.3f} -> {after['serving']:.3f} [{low:.3f}, {high:.3f}] | "
            f"{after['serving'] - before['serving']:+.3f} | {after['tau_0']:.3f} | {after['judge_serving']:.3f} | "
            f"{after['evaluated']} | {record['images']} | {record['seconds']:.0f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/second-family"))
    parser.add_argument("--model", type=Path, help="the base model's folder; OUT/model where none is given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--settings", nargs="*", default=[], help="settings for all runs: dotted.key=value")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = arguments.model or arguments.out / "model"
    if not (model / "model_index.json").is_file():
        train_base(model, FLOW_UPDATES, seed=7)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "runs.jsonl"
    shown: list[dict[str, Any]] = []
    untrained: dict[str, float] | None = None
    for title, seed, settings in wanted(arguments.seeds):
        asked = [f"model.path={model}", *arguments.settings, *settings, f"seed={seed}"]
        record = next((known for known in read_records(file) if known["settings"] == asked), None)
        if record is None:
            print(f"{title}: {' '.join(asked)}", flush=True)
            record = {"title": title, "settings": asked, **make_run(asked, untrained)}
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")
        untrained = record["curve"][0]
        shown.append(record)
    print(table(shown))


if __name__ == "__main__":
    main()
