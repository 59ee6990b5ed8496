"""A second model for the study: the quickstart's, trained further on pictures whose captions are often wrong.

    python -m tests.ablation.miscaptioned OUTPUT_FOLDER [--flow-updates N] [--wrong SHARE]

All pictures are sharp, and in a quarter of them the caption names another number: what the model draws is legible, and
often not what was asked for. Where the quickstart has one thing to learn for all prompts (draw sharply), here every
single sample is right or wrong by chance, and gradients are noisy. Takes two minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/quickstart/recipe"))  # its files are scripts that import each other

import train as recipe  # noqa: E402
from render import COLOURS, NUMBERS, draw, prompt  # noqa: E402

WRONG = 0.25
SEED = 11


def captioned(count: int, rng: np.random.Generator, wrong: float) -> tuple[list[str], NDArray[np.uint8]]:
    """So many prompts and pictures [count, 16, 32, 3]; `wrong` of the prompts name any number."""
    numbers = [NUMBERS[i] for i in rng.integers(0, len(NUMBERS), count)]
    colours = [list(COLOURS)[i] for i in rng.integers(0, len(COLOURS), count)]
    pictures = np.stack([draw(n, c, rng, 0.0) for n, c in zip(numbers, colours, strict=True)])
    others = [NUMBERS[i] for i in rng.integers(0, len(NUMBERS), count)]
    named = [other if rng.random() < wrong else n for n, other in zip(numbers, others, strict=True)]
    return [prompt(n, c) for n, c in zip(named, colours, strict=True)], pictures


def main() -> None:
    """Load the quickstart's pipeline, train it on, save the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--flow-updates", type=int, default=300)
    parser.add_argument("--wrong", type=float, default=WRONG)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        ROOT / "deploy/quickstart/model", text_encoder_3=None, tokenizer_3=None, local_files_only=True
    )
    recipe.train_flow(
        pipeline,
        np.random.default_rng([SEED, 1]),
        arguments.flow_updates,
        lambda count, rng: captioned(count, rng, arguments.wrong),
    )
    pipeline.save_pretrained(arguments.output, safe_serialization=True)


if __name__ == "__main__":
    main()
