"""What the quickstart's reward does not see: the share of legible held-out images in the colour that was asked for.

    python -m tests.benchmarks.quickstart_colours RUN_FOLDER... [--images-per-prompt 10]

Reads each run's adapter, draws with the serving sampler, the same seeds for the base model and every run, and prints a
Markdown table. A colour is right where the mean ink is nearer to it than to the recipe's five others.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.quickstart.recipe.render import COLOURS
from rewards.exact_match import exact_match
from rewards.ocr import build_tiny_recogniser
from rollout.lora import attach_adapter
from rollout.policies.build import PolicySpec, load_policy
from rollout.policy import Policy
from rollout.process import process_of
from rollout.sampler import named_noise, sample
from rollout.schedule import uniform_grid
from rollout.types import Behaviour

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "deploy/quickstart"
SEED = 7


def ink(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colour [n, 3] of the pixels of [n, H, W, 3] that are at least 0.7 as far from white as the farthest."""
    pixels = images.astype(np.float64)
    distance = 255.0 - pixels.min(-1)
    inked = distance > 0.7 * distance.max(axis=(1, 2), keepdims=True)
    return np.stack([picture[mask].mean(0) for picture, mask in zip(pixels, inked, strict=True)])


def figures(policy: Policy, per_prompt: int) -> tuple[float, float]:
    """Share of images that read right, and of those the share in the right colour."""
    behaviour = Behaviour(sigmas=uniform_grid(4), temperatures=(1.0,) * 4, height=16, width=32)
    process = process_of(behaviour)
    reader = build_tiny_recogniser()
    palette = np.array(list(COLOURS.values()), dtype=np.float64)
    read, coloured = [], []
    for ordinal, line in enumerate((QUICKSTART / "prompts/held_out.jsonl").read_text().splitlines()):
        record = json.loads(line)
        noise = named_noise(policy, behaviour, SEED, ordinal, range(per_prompt))
        draw = sample(policy, policy.encode([record["text"]]).take([0] * per_prompt), process, noise)
        images = policy.decode(draw.clean[:, -1]).numpy()
        read.append(exact_match(reader, images, [record["metadata"]["target"]] * per_prompt))
        nearest = np.linalg.norm(ink(images)[:, None] - palette, axis=-1).argmin(-1)
        coloured.append(nearest == list(COLOURS).index(record["text"].split()[-1]))
    right = np.concatenate(read).astype(bool)
    return float(right.mean()), float(np.concatenate(coloured)[right].mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--images-per-prompt", type=int, default=10)
    arguments = parser.parse_args()
    policy = load_policy(PolicySpec(folder=QUICKSTART / "model", max_sequence_length=8))
    rows = [("base model", *figures(policy, arguments.images_per_prompt))]
    attach_adapter(policy.network, policy.adapter_targets, 32, 64, 0)
    for run in arguments.runs:
        policy.load_adapter(run / "adapter")
        rows.append((run.name, *figures(policy, arguments.images_per_prompt)))
    print("| | reads right | of these in the right colour |\n|---|---|---|")
    for name, read, colour in rows:
        print(f"| {name} | {read:.3f} | {colour:.3f} |")


if __name__ == "__main__":
    main()
