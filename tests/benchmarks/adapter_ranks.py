"""Which rank and rate of the adapter reach the quickstart's figure: runs in this process, with equal budgets of images.

    python -m tests.benchmarks.adapter_ranks [--out FOLDER] [--ranks 4 16 32 64] [--rates 2e-4 4e-4 1e-3]
        [--images 9600] [--evaluate 1080] [--settings KEY=VALUE ...]

The quickstart's run file with another rank (alpha is twice the rank, so that the adapter's scale stays) and rate, on a
seed that is used for tuning, looked at half-way and at the end. A run that FOLDER has, with the same settings, is not
repeated. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from services.cli.run_file import load_run_file
from tests.ablation.arms import Arm
from tests.ablation.study import SEARCH_SEED, commit, read_records, run_of

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "deploy/configs/quickstart.yaml"


def record_of(file: Path, rank: int, rate: float, images: int, settings: Sequence[str]) -> dict[str, Any]:
    """The record of a run, which is made first where the file has none."""
    common = [f"seed={SEARCH_SEED}", *settings]
    asked = [*common, f"model.lora={{rank: {rank}, alpha: {2 * rank}}}", f"learning.rate={rate:g}"]
    alike = [record for record in read_records(file) if record["common"] == common]
    for record in alike:
        if (record["settings"], record["budget"]) == (asked, images):
            return record
    first = load_run_file(QUICKSTART, asked)
    updates = max(images // (first.learning.groups_per_update * first.sampling.samples_per_group), 1)
    config = load_run_file(QUICKSTART, [*asked, f"learning.updates={updates}"])
    print(f"rank {rank}, rate {rate:g}: {updates} updates", flush=True)
    untrained = alike[0]["curve"][0] if alike else None  # a fresh adapter changes nothing, whatever its rank
    made = run_of(config, Arm(staleness=config.fleet.max_staleness), images, max(images // 2, 1), untrained)
    record = {"rank": rank, "rate": rate, "common": common, "settings": asked, "budget": images, "commit": commit()}
    record |= made
    with file.open("a", encoding="utf-8") as appended:
        appended.write(json.dumps(record) + "\n")
    return record


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line per run."""
    head = ("rank", "rate", "exact match, serving: before, half-way, after", "tau 0", "judge", "images each", "seconds")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for record in records:
        last = record["curve"][-1]
        cells = (
            str(record["rank"]),
            f"{record['rate']:.0e}",
            ", ".join(f"{point['serving']:.3f}" for point in record["curve"]),
            f"{last['tau_0']:.3f}",
            f"{last['judge_serving']:.3f}",
            str(last["evaluated"]),
            f"{record['seconds']:.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs/ranks")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 16, 32, 64])
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-4, 4e-4, 1e-3])
    parser.add_argument("--images", type=int, default=9_600, help="trained on, per run")
    parser.add_argument("--evaluate", type=int, default=1_080, help="images per evaluation and sampler")
    parser.add_argument("--settings", nargs="*", default=[], help="settings for all runs: dotted.key=value")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = [*arguments.settings, f"evaluation.images={arguments.evaluate}"]
    file = arguments.out / "runs.jsonl"
    pairs = [(rank, rate) for rank in arguments.ranks for rate in arguments.rates]
    print(table([record_of(file, *pair, arguments.images, settings) for pair in pairs]))


if __name__ == "__main__":
    main()
