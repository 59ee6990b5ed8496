"""What stock diffusers makes of a run's adapter: held-out exact match, with none of our sampling code.

    python -m tests.benchmarks.stock_figures RUN_FOLDER... [--images-per-prompt 10]

Plain calls of `StableDiffusion3Pipeline` with `load_lora_weights`, at tau 0 (the Euler scheduler) and at tau 1 (its
`stochastic_sampling=True`), the same seeds for the base model and every run. Prints a Markdown table; what was measured
is kept in the run folder, and not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline

from rewards.exact_match import exact_match
from rewards.judge import build_judge
from rewards.ocr import build_tiny_recogniser
from rollout.prompts import load_prompts
from services.observe.summary import wilson_interval

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "deploy/quickstart/model"
HELD_OUT = ROOT / "deploy/quickstart/prompts/held_out.jsonl"
SAMPLERS = {"tau_0": False, "tau_1": True}
"""`stochastic_sampling` of the pipeline's scheduler."""


def stock_figures(adapter: Path | None, per_prompt: int) -> dict[str, Any]:
    """{images, tau_0: {exact_match, judge_exact_match}, tau_1: ...} of the base model, or of it with an adapter."""
    pipe = StableDiffusion3Pipeline.from_pretrained(MODEL, text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    if adapter is not None:
        pipe.load_lora_weights(adapter)
    readers = {"exact_match": build_tiny_recogniser(), "judge_exact_match": build_judge()}
    prompts = load_prompts(HELD_OUT)
    figures: dict[str, Any] = {"images": len(prompts) * per_prompt}
    for sampler, stochastic in SAMPLERS.items():
        pipe.scheduler.register_to_config(stochastic_sampling=stochastic)
        right = dict.fromkeys(readers, 0)
        for seed, prompt in enumerate(prompts):
            torch.manual_seed(seed)  # the scheduler draws from the global generator
            images = pipe(
                prompt.text,
                num_inference_steps=4,
                guidance_scale=1,
                max_sequence_length=8,
                height=16,
                width=32,
                num_images_per_prompt=per_prompt,
                output_type="np",
            ).images
            pixels, targets = (images * 255).round().astype(np.uint8), [prompt.metadata["target"]] * per_prompt
            for metric, reader in readers.items():
                right[metric] += int(exact_match(reader, pixels, targets).sum())
        figures[sampler] = {metric: count / figures["images"] for metric, count in right.items()}
    return figures


def kept_figures(file: Path, adapter: Path | None, per_prompt: int) -> dict[str, Any]:
    """The figures in the file; they are measured first where it has none of so many images."""
    if file.exists():
        kept: dict[str, Any] = json.loads(file.read_text())
        if kept["images"] == per_prompt * len(load_prompts(HELD_OUT)):
            return kept
    figures = stock_figures(adapter, per_prompt)
    file.write_text(json.dumps(figures, indent=1))
    return figures


def table(runs: Sequence[Path], per_prompt: int = 10) -> str:
    """Markdown, a line per run, each against the base model."""
    before = kept_figures(runs[0].parent / "stock_base.json", None, per_prompt)
    lines = ["| run | exact match, tau 1 | exact match, tau 0 | judge, tau 1 | images each |", "|" + "---|" * 5]
    for run in runs:
        after = kept_figures(run / "stock.json", run / "adapter", per_prompt)
        cells = [run.name]
        for sampler, metric in (("tau_1", "exact_match"), ("tau_0", "exact_match"), ("tau_1", "judge_exact_match")):
            low, high = wilson_interval(after[sampler][metric], after["images"])
            cells.append(f"{before[sampler][metric]:.3f} -> {after[sampler][metric]:.3f} [{low:.3f}, {high:.3f}]")
        lines.append("| " + " | ".join([*cells, str(after["images"])]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--images-per-prompt", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(table(arguments.runs, arguments.images_per_prompt))


if __name__ == "__main__":
    main()
