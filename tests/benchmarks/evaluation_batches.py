"""What evaluating several prompts in one batch saves, at one image a prompt.

    python -m tests.benchmarks.evaluation_batches [--prompts 54] [--repeats 3]

The quickstart's model at temperatures 0 and 1, drawn, decoded and read by both readers, CPU seconds on one thread; the
batch sizes take turns. Ratios are medians over the repeats, to one prompt at a time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from services.cli.run_file import load_run_file
from services.config import RunConfig
from services.fleet.messages import EvaluationTask
from services.fleet.workers.build import build_policy
from services.fleet.workers.evaluation import evaluate

RUN_FILE = Path(__file__).resolve().parents[2] / "deploy/configs/quickstart.yaml"
ONE_EACH = "evaluation.images=108"
AT_ONCE = (1, 4, 12)


def with_batch(config: RunConfig, size: int) -> RunConfig:
    """The run file's evaluation with so many prompts at once."""
    return config.model_copy(update={"sampling": config.sampling.model_copy(update={"samples_per_group": size})})


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=54, help="of the 108 held-out ones")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_run_file(RUN_FILE, [ONE_EACH])
    policy = build_policy(config)
    task = EvaluationTask(version=None, temperatures=(0.0, 1.0), share=0, shares=108 // arguments.prompts)
    evaluate(policy, config, task)  # encodes the prompts
    seconds: dict[int, list[float]] = {size: [] for size in AT_ONCE}
    read = {}
    for _ in range(arguments.repeats):
        for size in AT_ONCE:
            started = time.process_time()
            read[size] = evaluate(policy, with_batch(config, size), task).exact
            seconds[size].append(time.process_time() - started)
    print("| prompts at once | CPU seconds | one at a time takes | read right at tau 0, 1 |\n" + "|---" * 4 + "|")
    for size in AT_ONCE:
        ratio = statistics.median(one / some for one, some in zip(seconds[1], seconds[size], strict=True))
        right = ", ".join(str(count) for count in read[size].values())
        print(f"| {size} | {statistics.median(seconds[size]):.2f} | {ratio:.2f} times that | {right} |")


if __name__ == "__main__":
    main()
