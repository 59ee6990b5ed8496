"""Every family's tiny twin on this machine: our samples are the stock pipeline's, and the ratio guard holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from learner.guard import TOLERANCE
from rollout.policies.build import PolicySpec
from rollout.policies.parity import parity
from rollout.policies.twins.build import TWINS, save_twin
from services.cli.acceptance.claim import Claim, Figures, Finding, at_most
from services.config import RunConfig
from services.fleet.run.alone import LoneRun
from services.fleet.workers.placed_rewards import build_rewards

PROMPTS = ("a cat", "a red dog that runs on green grass")  # of different lengths: padding must not show
SIZE = (32, 32)
STEPS = 2
TEXT_TOKENS = 320
GUIDANCE = {"sana_sprint": 4.5}  # an input of its network, which was distilled with it
FLOAT32_LARGEST = 1e-4
HALF_MEAN_SHARE = 0.05


def family_claims(parent: Path, device: str) -> Iterator[Claim]:
    """Parity and guard of every family in both precisions. parent: a folder for the twins. device: cpu or cuda."""
    for family in TWINS:
        for dtype in ("float32", "bfloat16"):
            for kind, check in (("parity", _parity), ("guard", _guard)):
                yield Claim(
                    name=f"{kind}:{family}:{dtype}:{device}",
                    gpus=1 if device == "cuda" else 0,
                    check=partial(check, family, dtype, device, parent),
                )


def _twin(family: str, parent: Path) -> Path:
    folder = parent / family
    return folder if folder.exists() else save_twin(family, folder)


def _parity(family: str, dtype: str, device: str, parent: Path) -> Finding:
    spec = PolicySpec(
        folder=_twin(family, parent),
        dtype=dtype,
        device=device,
        guidance=GUIDANCE.get(family, 1.0),
        max_sequence_length=TEXT_TOKENS,
    )
    apart = parity(spec, PROMPTS, STEPS, *SIZE)
    figures: Figures = {"largest": apart.largest, "mean_share": apart.mean_share}
    if dtype == "float32":
        return at_most(apart.largest, FLOAT32_LARGEST, "in latents from the stock pipeline", figures)
    return at_most(apart.mean_share, HALF_MEAN_SHARE, "of the stock pipeline's mean latent", figures)


def _guard(family: str, dtype: str, device: str, parent: Path) -> Finding:
    """Two updates: the second finds the means of a group that was drawn with weights that were trained."""
    config = twin_run(_twin(family, parent), family, dtype, device)
    run = LoneRun(config, build_rewards(config))
    drifts = [run.update().guard_drift for _ in range(config.learning.updates)]
    worst = math.nan if any(map(math.isnan, drifts)) else max(drifts)
    return at_most(worst, TOLERANCE[getattr(torch, dtype)], "standard deviations of drift")


def twin_run(folder: Path, family: str, dtype: str, device: str) -> RunConfig:
    """A run of two updates with the learner's and the rollout's arrangements as different as they may be."""
    prompts = folder.parent / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in PROMPTS))
    return RunConfig.model_validate(
        {
            "name": f"accept-{family}",
            "runs": str(folder.parent),
            "model": {
                "path": str(folder),
                "dtype": dtype,
                "device": device,
                "max_sequence_length": TEXT_TOKENS,
                "lora": {"rank": 2, "alpha": 4},
                "gradient_checkpointing": True,
            },
            "sampling": {
                "prompts": str(prompts),
                "height": SIZE[0],
                "width": SIZE[1],
                "sigmas": [1, 0.7, 0.4, 0],
                "temperature": {"annealing": "constant", "start": 0.9},
                "samples_per_group": 4,
                "guidance": GUIDANCE.get(family, 1.0),
            },
            "rewards": [{"use": "jpeg_size", "options": {"direction": "larger"}}],
            "learning": {"updates": 2, "groups_per_update": 2, "micro_batch": 5},
            "fleet": {"merge_adapter": dtype == "float32"},
        }
    )
