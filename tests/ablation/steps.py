"""One adapter for several numbers of steps, against the base model at as many and at more.

    python -m tests.ablation.steps [--seeds 1 2 3] [--images 9600] [--out FOLDER]

Trains the quickstart model with K drawn from 1, 2, 4 and 8 in x0-space, then reads held-out images of the average at
every K, at temperatures 0 and 1; of the base model at these and at 28 steps. Every finished run is a line of
FOLDER/steps.jsonl and is not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from rewards.ocr import build_tiny_recogniser
from rollout.policy import Policy
from services.cli.run_file import load_run_file
from services.config import RunConfig
from services.fleet.run.alone import LoneRun
from services.fleet.workers.placed_rewards import build_rewards
from tests.ablation.arms import ARMS
from tests.ablation.study import ROOT, commit, evaluated, matches_of, mean_of, read_records

RUN_FILE = ROOT / "deploy/configs/quickstart.yaml"
STEPS = (1, 2, 4, 8)
MANY = 28
TEMPERATURES = (0.0, 1.0)
ACTIONS = ("sampling.last_step=x0", "sampling.last_std=0.3")


def grid(steps: int) -> str:
    """K equal steps of the noise level, as a setting."""
    return f"sampling.sigmas={[1 - step / steps for step in range(steps + 1)]}"


def read_at(policy: Policy, config: RunConfig, steps: int) -> dict[str, float]:
    """Exact match of K steps by temperature, as the policy's weights are now."""
    there = load_run_file(RUN_FILE, [*ACTIONS, grid(steps), f"evaluation.images={config.evaluation.images}"])
    read = matches_of(build_tiny_recogniser())
    return {f"{tau:g}": mean_of(read, evaluated(policy, there, tau)) for tau in TEMPERATURES}


def main() -> None:
    """Run what is missing, then print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs/ablation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--images", type=int, default=9_600, help="trained on, per run")
    parser.add_argument("--evaluate", type=int, default=1_080, help="images per K and temperature")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "steps.jsonl"
    records = read_records(file)
    for seed in (0, *arguments.seeds):  # 0 is the base model
        if any(record["seed"] == seed for record in records):
            continue
        settings = [*ARMS["random_steps"].overrides, f"seed={seed}", f"evaluation.images={arguments.evaluate}"]
        config = load_run_file(RUN_FILE, settings)
        run = LoneRun(config, build_rewards(config))
        per_update = config.learning.groups_per_update * config.sampling.samples_per_group
        for _ in range(arguments.images // per_update if seed else 0):
            run.update()
        run.use(run.learner.average.tensors)
        steps = STEPS if seed else (*STEPS, MANY)
        record = {"seed": seed, "commit": commit(), "exact": {k: read_at(run.policy, config, k) for k in steps}}
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")
        print(record, flush=True)
    print(table(read_records(file)))


def table(records: list) -> str:
    """Markdown: the base model and every seed, by K and temperature."""
    columns = [(str(k), f"{tau:g}") for k in (*STEPS, MANY) for tau in TEMPERATURES]
    lines = ["| model | " + " | ".join(f"K = {k}, tau {tau}" for k, tau in columns) + " |", "|---" * 11 + "|"]
    for record in records:
        name = f"seed {record['seed']}" if record["seed"] else "base"
        cells = [f"{record['exact'][k][tau]:.3f}" if k in record["exact"] else "-" for k, tau in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
