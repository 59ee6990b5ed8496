"""The study: arms x seeds with a fixed budget of images, in one process each, resumable.

    python -m tests.ablation.study --out FOLDER [--arms NAME ...] [--seeds 1 2 3 4 5] [--images 576]
        [--every 48] [--evaluate 1080] [--search-images 288] [--base RUN.yaml] [--settings KEY=VALUE ...]
        [--target 0.8]

The figure is the exact match of held-out images; where the run file's first reward does not read text, its mean.

Every finished run is a line of FOLDER/runs.jsonl and is never repeated while its settings, commit aside, are the same;
a run that was cut off starts anew. With --search-images each arm first tries its rates and temperatures on a seed of
its own (1000) with that budget and a third of the images in its three evaluations, and its study runs take those whose
curve is best with the serving sampler, on average over its points; without, the base file's rate and the arm's middle
temperature. Prints the table and draws the figure of what FOLDER holds (table.py).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewards.reward import checked
from rollout.prompts import load_prompts
from rollout.types import WeightsVersion
from services.cli.run_file import load_run_file
from services.config import RunConfig
from services.fleet.alone import LoneRun
from services.fleet.build import build_rewards
from services.fleet.evaluation import draw, evaluate, evaluation_of
from services.fleet.messages import EvaluationTask
from tests.ablation.arms import ARMS, Arm
from tests.ablation.table import TARGET, write_results

ROOT = Path(__file__).resolve().parents[2]
SEARCH_SEED = 1000
BARE = (
    "learning.kl_weight=0",
    "learning.groups_per_update=2",
    "learning.warmup_updates=4",
    "learning.ema_decay=0",
)
"""Every arm learns what its update makes of the reward, and nothing holds it back, in updates so small that the noise
of their gradients counts: with the run file's sixteen groups the rate and its warm-up decide, whatever the method."""
NAMELESS = WeightsVersion(version=0, update=0, lineage=0, digest="")


def run_of(config: RunConfig, arm: Arm, images: int, every: int, untrained: dict[str, float] | None) -> dict[str, Any]:
    """One run: its curve [{images, seconds, serving}], from the untrained model on, whose point is `untrained` where it
    is known; the last point has tau_0 and judge_serving too.

    seconds are those of drawing, scoring and learning; evaluation is not in them.
    """
    run = LoneRun(config, build_rewards(config), staleness=arm.staleness)
    per_update = config.learning.groups_per_update * config.sampling.samples_per_group
    curve, spent, reports = [untrained or _figures(run, config, 0, 0.0)], 0.0, []
    for update in range(1, config.learning.updates + 1):
        started = time.perf_counter()
        reports.append(run.update())
        spent += time.perf_counter() - started
        last = update == config.learning.updates
        if last or update * per_update % every < per_update:
            curve.append(_figures(run, config, update * per_update, spent, last=last))
    last = reports[-1]
    distances = [report.distance for report in reports if math.isfinite(report.distance)]  # none: nothing was trained
    return {
        "curve": curve,
        "seconds": spent,
        "images": images,
        "distance": distances[-1] if distances else math.nan,
        "diversity": last.diversity,
        "dropped": sum(report.dropped_fraction for report in reports) / len(reports),
        "clipped": sum(report.clip_fraction for report in reports) / len(reports),
        "train_reward": [report.rewards[next(iter(report.rewards))].mean[-1] for report in reports],
    }


def _figures(run: LoneRun, config: RunConfig, images: int, seconds: float, *, last: bool = False) -> dict[str, float]:
    """The average's figure with the serving sampler; at the last point without noise, and by the judge, too."""
    run.use(run.learner.average.tensors)
    serving = config.sampling.serving_temperature
    if config.rewards[0].use != "text_rendering":
        found = {tau: mean_reward(run, config, tau) for tau in ((serving, 0.0) if last else (serving,))}
        figures = {
            "images": images,
            "seconds": seconds,
            "serving": found[serving],
            "evaluated": evaluated_images(config),
        }
        return figures | ({"tau_0": found[0.0], "judge_serving": math.nan} if last else {})
    taus = tuple(dict.fromkeys((serving, 0.0))) if last else (serving,)
    part = evaluate(run.policy, config, EvaluationTask(version=NAMELESS, temperatures=taus, share=0, shares=1))
    figures = {
        "images": images,
        "seconds": seconds,
        "serving": part.exact[serving] / part.images,
        "evaluated": part.images,
    }
    if last:
        figures |= {"tau_0": part.exact[0.0] / part.images, "judge_serving": part.judge_exact[serving] / part.images}
    return figures


def mean_reward(run: LoneRun, config: RunConfig, temperature: float) -> float:
    """The first reward's mean over the final images that an evaluation draws."""
    prompts, scores = load_prompts(evaluation_of(config).prompts), []
    count = evaluated_images(config) // len(prompts)
    for index, prompt in enumerate(prompts):
        pixels = draw(run.policy, config, prompt, index, count, temperature)
        scores.append(checked(run.rewards[0].reward, pixels, [prompt.text] * count, [prompt.metadata] * count))
    return float(np.concatenate(scores).mean())


def evaluated_images(config: RunConfig) -> int:
    """How many images an evaluation draws: as many of every prompt."""
    evaluation = evaluation_of(config)
    prompts = len(load_prompts(evaluation.prompts))
    return -(-evaluation.images // prompts) * prompts


class Study:
    """What is asked for and what is there."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._file: Path = arguments.out / "runs.jsonl"
        arguments.out.mkdir(parents=True, exist_ok=True)
        self.records = read_records(self._file)
        self._untrained: dict[object, dict[str, float]] = {}  # by what the evaluation depends on

    def run(
        self, name: str, seed: int, settings: Sequence[str], images: int, *, every: int, evaluated: int
    ) -> dict[str, Any]:
        """The record of a run, which is made first where it is not there."""
        arm = ARMS[name]
        asked = [*BARE, *self._arguments.settings, *arm.overrides, *settings, f"seed={seed}"]
        asked += [f"evaluation.images={evaluated}"]
        key = {"arm": name, "seed": seed, "settings": asked, "budget": images, "every": every}
        for record in self.records:
            if all(record[field] == value for field, value in key.items()):
                return record
        first = load_run_file(self._arguments.base, asked)
        per_update = first.learning.groups_per_update * first.sampling.samples_per_group
        config = load_run_file(self._arguments.base, [*asked, f"learning.updates={max(images // per_update, 1)}"])
        print(f"{name} seed {seed} {' '.join(settings)}: {config.learning.updates} updates", flush=True)
        serving = (config.sampling.serving_temperature, config.sampling.sigmas, evaluated)
        made = run_of(config, arm, images, every, self._untrained.get(serving))
        self._untrained[serving] = made["curve"][0]
        record = {**key, "commit": commit(), **made}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.records.append(record)
        return record

    def best(self, name: str) -> tuple[str, ...]:
        """The settings that an arm's study runs take beside its own."""
        arm = ARMS[name]
        images = self._arguments.search_images
        if not images:
            return arm.fixed or (temperature(arm.temperatures[len(arm.temperatures) // 2]),)
        effort = {"every": max(images // 3, 1), "evaluated": max(self._arguments.evaluate // 3, 1)}
        tried = [(self.run(name, SEARCH_SEED, found, images, **effort), found) for found in searched(arm)]
        return max(tried, key=lambda entry: sum(point["serving"] for point in entry[0]["curve"]))[1]


def temperature(value: float) -> str:
    """The setting of a constant temperature."""
    return f"sampling.temperature={{start: {value:g}}}"


def searched(arm: Arm) -> Iterator[tuple[str, ...]]:
    """Every setting that an arm's search tries."""
    for rate in arm.rates:
        for heat in [arm.fixed] if arm.fixed else [(temperature(value),) for value in arm.temperatures]:
            yield (f"learning.rate={rate:g}", *heat)


def read_records(file: Path) -> list[dict[str, Any]]:
    """The finished runs; a line that a kill cut off is left out, and cut off the file."""
    if not file.exists():
        return []
    whole, _, torn = file.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        file.write_text(whole + "\n" if whole else "", encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def commit() -> str:
    """The commit that runs, with a + where the tree differs from it."""
    described = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Run what is missing, then print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs/ablation")
    parser.add_argument("--base", type=Path, default=ROOT / "deploy/configs/quickstart.yaml")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--baseline", default="flow_sde_terminal", help="the arm that others are compared with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--images", type=int, default=576, help="trained on, per run")
    parser.add_argument("--every", type=int, default=48, help="images between evaluations")
    parser.add_argument("--evaluate", type=int, default=1_080, help="images per evaluation and sampler")
    parser.add_argument("--target", type=float, default=TARGET, help="of the figure: how many images until there?")
    parser.add_argument("--search-images", type=int, default=0, help="budget of each run of the search; 0 = none")
    parser.add_argument("--list", action="store_true", help="print the arms and end")
    parser.add_argument("--settings", nargs="*", default=[], help="settings for all runs: dotted.key=value")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:22} {arm.note}" for name, arm in ARMS.items()))
        return
    torch.set_num_threads(1)
    study = Study(arguments)
    chosen = {name: study.best(name) for name in arguments.arms}
    effort = {"every": arguments.every, "evaluated": arguments.evaluate}
    done = [
        study.run(name, seed, chosen[name], arguments.images, **effort)
        for seed in arguments.seeds
        for name in arguments.arms
    ]
    write_results(done, arguments.baseline, arguments.out, arguments.target)


if __name__ == "__main__":
    main()
