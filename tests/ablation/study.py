"""The study: arms x seeds with a fixed budget of images, in one process each, resumable.

    python -m tests.ablation.study --out FOLDER [--arms NAME ...] [--seeds 1 2 3 4 5] [--images 576]
        [--every 48] [--evaluate 1080] [--search-images 288] [--search-seeds 1000 1001] [--rates 1e-3 1.4e-3] [--hot]
        [--base RUN.yaml] [--settings KEY=VALUE ...] [--target 0.8]

The figure is the exact match of held-out images; where the run file's first reward does not read text, its mean.

Every finished run is a line of FOLDER/runs.jsonl and is never repeated while its settings, commit aside, are the same;
a run that was cut off starts anew. With --search-images each arm first tries its rates and temperatures on seeds of
the search's own with that budget and a third of the images in its two evaluations, and its study runs take those whose
curves are best with the serving sampler, on average over points and seeds; without, the base file's rate and the arm's
middle temperature. --rates and --hot search other rates, and at each arm's highest temperature alone. An arm that is
another one with a single change takes that one's choice. Once a run has reached the target, it is evaluated at its end
only. Prints the table and draws the figure of what FOLDER holds (table.py).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rewards.exact_match import exact_match
from rewards.judge import build_judge
from rewards.ocr import build_tiny_recogniser
from rewards.reward import Reader, Reward, checked
from rollout.policy import Policy
from rollout.prompts import load_prompts
from rollout.types import Prompt
from services.cli.run_file import load_run_file
from services.config import RunConfig
from services.fleet.run.alone import LoneRun
from services.fleet.workers.evaluation import draw, evaluation_of
from services.fleet.workers.placed_rewards import build_rewards
from tests.ablation.arms import ARMS, Arm
from tests.ablation.table import TARGET, write_results

ROOT = Path(__file__).resolve().parents[2]
SEARCH_SEED = 1000
"""Not one of a study's own."""
BARE = (
    "learning.kl_weight=0",
    "learning.groups_per_update=2",
    "learning.warmup_updates=4",
    "learning.ema_decay=0",
)
"""Every arm learns what its update makes of the reward, and nothing holds it back, in updates so small that the noise
of their gradients counts: with the run file's sixteen groups the rate and its warm-up decide, whatever the method."""
PROMPTS_PER_BATCH = 6


def run_of(
    config: RunConfig, arm: Arm, images: int, every: int, untrained: dict[str, float] | None, target: float = math.inf
) -> dict[str, Any]:
    """One run: its curve [{images, seconds, serving}], from the untrained model on, whose point is `untrained` where it
    is known; the last point has tau_0 and judge_serving too. Between a point that reaches the target and the last one
    there is none.

    seconds are the processor's, of drawing, scoring and learning on one thread; evaluation is not in them.
    """
    run = LoneRun(config, build_rewards(config), staleness=arm.staleness)
    per_update = config.learning.groups_per_update * config.sampling.samples_per_group
    curve, spent, reports = [untrained or _figures(run, config, 0, 0.0)], 0.0, []
    for update in range(1, config.learning.updates + 1):
        started = time.process_time()
        reports.append(run.update())
        spent += time.process_time() - started
        last = update == config.learning.updates
        looked_at = update * per_update % every < per_update and curve[-1]["serving"] < target
        if last or looked_at:
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
    read = figure_of(run, config)
    pictures = [*evaluated(run.policy, config, serving)]
    figures = {"images": images, "seconds": seconds, "serving": mean_of(read, pictures), "evaluated": count(pictures)}
    if last:
        figures["tau_0"] = mean_of(read, evaluated(run.policy, config, 0.0)) if serving else figures["serving"]
        figures["judge_serving"] = mean_of(matches_of(build_judge()), pictures) if reads_text(config) else math.nan
    return figures


Pictures = tuple[NDArray[np.uint8], Sequence[Prompt]]  # [n, H, W, 3], and the prompt of each
Figure = Callable[[NDArray[np.uint8], Sequence[Prompt]], NDArray[Any]]  # one number per picture


def evaluated(policy: Policy, config: RunConfig, temperature: float) -> Iterator[Pictures]:
    """The evaluation's final images, several prompts in one batch."""
    evaluation = evaluation_of(config)
    prompts = load_prompts(evaluation.prompts)
    each = -(-evaluation.images // len(prompts))
    for first in range(0, len(prompts), PROMPTS_PER_BATCH):
        block = dict(enumerate(prompts[first : first + PROMPTS_PER_BATCH], first))
        drawn = draw(policy, config, block, each, temperature)
        yield drawn, [prompt for prompt in block.values() for _ in range(each)]


def reads_text(config: RunConfig) -> bool:
    """Whether the first reward reads text, so that the figure is the exact match."""
    return config.rewards[0].use == "text_rendering"


def figure_of(run: LoneRun, config: RunConfig) -> Figure:
    """What a curve shows the mean of."""
    return matches_of(build_tiny_recogniser()) if reads_text(config) else scores_of(run.rewards[0].reward)


def matches_of(reader: Reader) -> Figure:
    """1 where the reader finds exactly the target."""
    return lambda pixels, prompts: exact_match(reader, pixels, [str(prompt.metadata["target"]) for prompt in prompts])


def scores_of(reward: Reward) -> Figure:
    """The reward itself."""
    return lambda pixels, prompts: checked(
        reward, pixels, [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts]
    )


def mean_of(figure: Figure, pictures: Iterable[Pictures]) -> float:
    """The mean over all pictures."""
    return float(np.concatenate([figure(pixels, prompts) for pixels, prompts in pictures]).mean())


def count(pictures: Iterable[Pictures]) -> int:
    """How many there are."""
    return sum(len(prompts) for _, prompts in pictures)


class Study:
    """What is asked for and what is there."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._file: Path = arguments.out / "runs.jsonl"
        arguments.out.mkdir(parents=True, exist_ok=True)
        self.records = read_records(self._file)
        self._untrained: dict[object, dict[str, float]] = {}  # by what the evaluation depends on

    def run(
        self,
        name: str,
        seed: int,
        settings: Sequence[str],
        images: int,
        *,
        every: int,
        evaluated: int,
        target: float = math.inf,
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
        made = run_of(config, arm, images, every, self._untrained.get(serving), target)
        self._untrained[serving] = made["curve"][0]
        record = {**key, "commit": commit(), **made}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.records.append(record)
        return record

    def best(self, name: str) -> tuple[str, ...]:
        """The settings that an arm's study runs take beside its own."""
        arm = ARMS[name]
        if arm.like:
            return self.best(arm.like)
        images = self._arguments.search_images
        if not images:
            return arm.fixed or (temperature(arm.temperatures[len(arm.temperatures) // 2]),)
        effort = {"every": max(images // 2, 1), "evaluated": max(self._arguments.evaluate // 3, 1)}
        seeds = self._arguments.search_seeds

        def height(found: tuple[str, ...]) -> float:
            made = [self.run(name, seed, found, images, **effort) for seed in seeds]
            return sum(point["serving"] for record in made for point in record["curve"])

        return max(searched(arm, self._arguments.rates or arm.rates, hot=self._arguments.hot), key=height)


def temperature(value: float) -> str:
    """The setting of a constant temperature."""
    return f"sampling.temperature={{start: {value:g}}}"


def searched(arm: Arm, rates: Sequence[float], *, hot: bool) -> Iterator[tuple[str, ...]]:
    """Every setting that an arm's search tries; hot: of its temperatures the highest alone."""
    heats = [max(arm.temperatures)] if hot else arm.temperatures
    for rate in rates:
        for heat in [arm.fixed] if arm.fixed else [(temperature(value),) for value in heats]:
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
    parser.add_argument("--search-seeds", type=int, nargs="+", default=[SEARCH_SEED])
    parser.add_argument("--rates", type=float, nargs="+", help="the search's, in the place of each arm's own")
    parser.add_argument("--hot", action="store_true", help="search at each arm's highest temperature alone")
    parser.add_argument("--list", action="store_true", help="print the arms and end")
    parser.add_argument("--settings", nargs="*", default=[], help="settings for all runs: dotted.key=value")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:22} {arm.note}" for name, arm in ARMS.items()))
        return
    torch.set_num_threads(1)
    study = Study(arguments)
    chosen = {name: study.best(name) for name in arguments.arms}
    effort = {"every": arguments.every, "evaluated": arguments.evaluate, "target": arguments.target}
    done = [
        study.run(name, seed, chosen[name], arguments.images, **effort)
        for seed in arguments.seeds
        for name in arguments.arms
    ]
    write_results(done, arguments.baseline, arguments.out, arguments.target)


if __name__ == "__main__":
    main()
