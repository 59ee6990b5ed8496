"""A run that never happened but could have: what the tests of this room show, draw and count."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from learner.histogram import histogram
from services.observe.events import EventLog
from services.observe.history import HistoryWriter, UpdateRecord
from services.observe.strips import StripPanel, StripRow, compose_before_after, compose_strip, strip_path
from services.observe.summary import Evaluation, build_summary, write_summary

START = 1_760_000_000.0
GROUPS, SAMPLES = 8, 16
CEILINGS = (0.25, 0.62, 0.8, 0.86)  # of the mean reward, by step

MakeHistory = Callable[..., tuple[UpdateRecord, ...]]


def make_rewards(update: int, rng: np.random.Generator, rewards: Sequence[str], num_steps: int) -> dict:
    """Reward statistics that rise towards a ceiling per step."""
    learned = 1.0 - math.exp(-update / 40.0)
    table = {}
    for name, height in zip(rewards, (1.0, 0.6), strict=False):
        ceilings = (np.interp(np.linspace(0, 3, num_steps), range(4), CEILINGS) * height).tolist()
        table[name] = {
            "mean": tuple(c * (0.15 + 0.85 * learned) + float(rng.normal(0.0, 0.025)) for c in ceilings),
            "spread": (0.3,) * num_steps,
            "zero_spread": (0.1 + 0.3 * learned,) * num_steps,
            "weight": height,
            "passed": (0.25 * learned,) * num_steps if name == "judge" else (),
        }
    return table


def make_report(update: int, rng: np.random.Generator, rewards: Sequence[str], num_steps: int) -> dict:
    """An UpdateReport's fields; update 17 met a gradient that was not finite."""

    def about(centre: float, spread: float) -> float:
        return centre + float(rng.normal(0.0, spread))

    trained_steps = range(num_steps - 1)
    return {
        "update": update,
        "consumed": tuple(range((update - 1) * GROUPS, update * GROUPS)),
        "images": GROUPS * SAMPLES,
        "trained": update != 17,
        "rate": 3e-4 * min(1.0, update / 10),
        "loss": about(-0.01 * (1.0 - math.exp(-update / 40.0)), 0.004),
        "grad_norm": abs(about(0.6 * math.exp(-update / 60) + 0.2, 0.06)),
        "kl": 0.0,
        "clip_fraction": abs(about(0.08, 0.02)),
        "skipped_fraction": 0.1,
        "dropped_fraction": 0.0,
        "guard_drift": math.nan,
        "drift": {step: abs(about(0.02 + 0.01 * step, 0.004)) for step in trained_steps},
        "log_ratio_max": {step: abs(about(0.01, 0.002)) for step in trained_steps},
        "advantage_std": {step: about(0.9 - 0.1 * step, 0.03) for step in trained_steps},
        "rewards": make_rewards(update, rng, rewards, num_steps),
        "distance": 0.01 * update,
        "diversity": {step: abs(about(0.3 + 0.1 * step, 0.01)) for step in range(num_steps)},
        "temperature": dict.fromkeys(range(num_steps), 0.9),
        "baseline_gain": {step: about(0.4, 0.05) for step in trained_steps},
        "advantages": {step: make_histogram(rng.normal(0.0, 1.0, 100)) for step in trained_steps},
        "drifts": {step: make_histogram(rng.gamma(2.0, 0.01, 100)) for step in trained_steps},
    }


def make_histogram(values: np.ndarray) -> dict:
    return msgspec.to_builtins(histogram(values))


def make_record(update: int, rng: np.random.Generator, rewards: Sequence[str], num_steps: int) -> UpdateRecord:
    def about(centre: float, spread: float) -> float:
        return centre + abs(float(rng.normal(0.0, spread)))

    seconds = 7.4 * update + 3.0
    phases = {"wait": about(1.4, 0.8), "load": about(0.3, 0.05), "forward_backward": about(4.2, 0.4)}
    calls = {
        "sample": about(2.1, 0.2),
        "decode": about(0.8, 0.1),
        "score": about(0.5, 0.1),
        "update": about(3.6, 0.3),
    }
    return UpdateRecord(
        update=update,
        version=update,
        lineage=0,
        unix_time=START + seconds,
        run_seconds=seconds,
        images_total=update * GROUPS * SAMPLES,
        staleness=tuple(rng.choice(4, size=GROUPS, p=(0.35, 0.45, 0.15, 0.05)).tolist()),
        call_seconds=calls,
        phase_seconds={**phases, "publish": about(0.5, 0.1), "checkpoint": 0.0 if update % 10 else 1.6},
        report=make_report(update, rng, rewards, num_steps),
    )


@pytest.fixture
def make_history() -> MakeHistory:
    def make(
        updates: int, *, rewards: Sequence[str] = ("exact_match", "judge"), num_steps: int = 4
    ) -> tuple[UpdateRecord, ...]:
        rng = np.random.default_rng(7)
        return tuple(make_record(update, rng, rewards, num_steps) for update in range(1, updates + 1))

    return make


@pytest.fixture
def evaluations() -> tuple[Evaluation, ...]:
    shares = {
        ("exact_match", "serving"): (0.183, 0.741),
        ("exact_match", "tau_0"): (0.183, 0.741),
        ("exact_match", "tau_1"): (0.094, 0.802),
        ("judge_exact_match", "serving"): (0.171, 0.688),
        ("judge_exact_match", "tau_0"): (0.171, 0.688),
        ("judge_exact_match", "tau_1"): (0.088, 0.731),
    }
    return tuple(
        Evaluation(sampler=sampler, when=when, metric=metric, value=value, images=576)
        for (metric, sampler), pair in shares.items()
        for when, value in zip(("before", "after"), pair, strict=True)
    )


@pytest.fixture
def mean_reward() -> tuple[Evaluation, ...]:
    return (
        Evaluation(sampler="serving", when="before", metric="jpeg_size", value=-2.1, images=64, std=0.8),
        Evaluation(sampler="serving", when="after", metric="jpeg_size", value=-1.2, images=64, std=0.6),
    )


MakeRows = Callable[..., tuple[StripRow, ...]]


@pytest.fixture
def make_rows() -> MakeRows:
    """Strip rows of drawn numbers that grow clearer from step to step."""

    def make(num_rows: int = 4, *, num_steps: int = 4, height: int = 16, width: int = 32) -> tuple[StripRow, ...]:
        rng = np.random.default_rng(3)
        colours = {"red": (214, 32, 32), "green": (16, 138, 48), "blue": (32, 64, 216), "purple": (140, 32, 168)}
        rows = []
        for number, (name, colour) in zip((42, 17, 80, 95, 31, 66)[:num_rows], list(colours.items()) * 2, strict=False):
            canvas = Image.new("RGB", (width, height), "white")
            font = ImageFont.load_default(size=round(height * 0.85))
            ImageDraw.Draw(canvas).text((width * 0.22, 0), str(number), fill=colour, font=font)
            clean = np.asarray(canvas, dtype=np.float64)
            blurs = np.linspace(0.75, 0.0, num_steps)
            images = [clean * (1 - b) + b * rng.normal(190, 60, clean.shape) for b in blurs]
            notes = tuple(str(number) if b < 0.4 else "?" for b in blurs)
            pixels = np.clip(np.stack(images), 0, 255).astype(np.uint8)
            rows.append(StripRow(caption=f"write {number} in {name}", images=pixels, notes=notes))
        return tuple(rows)

    return make


@pytest.fixture
def run_folder(tmp_path: Path, make_history: MakeHistory, make_rows: MakeRows, evaluations) -> Path:
    """Everything that a run leaves behind that a report reads."""
    folder = tmp_path / "numbers"
    (folder / "strips").mkdir(parents=True)
    records = make_history(100)
    with HistoryWriter(folder / "history.jsonl") as writer:
        for record in records:
            writer.append(record)
    write_summary(folder / "summary.json", build_summary(records, evaluations, wall_seconds=790.0, slots=2))
    (folder / "config.yaml").write_text("model:\n  base: <a & b>\nsampling:\n  num_steps: 4\n")
    (folder / "run.json").write_text(
        json.dumps({"git_commit": "0123abc", "versions": {"torch": "2.8.0", "vllm": None}})
    )
    events = EventLog(folder)
    events.add("start", "The run starts.")
    events.add("worker", "died: <signal 9>", update=40, slot="rollout-1")
    events.add("learner", "learner-0 died: hung; stacks in /home/me/runs/a/stacks/1.txt", update=41, slot="learner-0")
    events.close()
    for update in (0, 50, 100):
        compose_strip(make_rows(), [f"step {step}" for step in range(4)], f"Update {update}").save(
            strip_path(folder / "strips", update)
        )
    panels = [StripPanel(heading=f"Update {update}", rows=make_rows()) for update in (0, 50, 100)]
    compose_before_after(panels, [f"step {step}" for step in range(4)], "Before and after").save(
        folder / "strips" / "before_after.png"
    )
    return folder
