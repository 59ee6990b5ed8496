"""The run file on this machine: its memory against the plan, its speed, and twenty updates that learn."""

from __future__ import annotations

import gc
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from learner.ranks import Alone
from services.cli.acceptance.claim import Figures, Finding, Status
from services.cli.bench import Bench, in_turns
from services.config import RunConfig
from services.fleet.planning.memory import memory_plan
from services.fleet.planning.model_folder import model_folder
from services.fleet.workers.build import build_learner, build_policy
from services.observe.history import UpdateRecord, read_history

GIB = 2**30
JUDGED_GIB = 1.0
"""Below it a network's memory is hidden behind CUDA's own work spaces: a figure, no verdict."""
UPDATES = 20
COMPARED = 5
"""Updates at either end that are compared."""
STANDARD_ERRORS = 2.0
RUN_TIMEOUT_S = 3600


def memory_fits(config: RunConfig, role: str) -> Finding:
    """The peak of what PyTorch allocates on the GPU for a group or an update, against the plan's sum for the role."""
    planned = sum(part.size_bytes for part in memory_plan(config, model_folder(config.model))[role]) / GIB
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    bench = Bench(config)
    if role == "rollout":
        bench.draw_and_decode(build_policy(config))
    else:
        groups = bench.scored_groups(build_policy(config))
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        build_learner(config, build_policy(config), Alone()).update(groups, guard=False)
    measured = torch.cuda.max_memory_allocated() / GIB
    judged: Status = "passed" if measured <= planned else "failed"
    return Finding(
        status="measured" if planned < JUDGED_GIB else judged,
        expected=f"at most the planned {planned:.3g} GiB",
        found=f"{measured:.3g} GiB",
        figures={"planned_gib": planned, "measured_gib": measured, "share": measured / planned},
    )


def phases_take(config: RunConfig) -> Finding:
    """Milliseconds of each phase, and images a second of the one that is slowest."""
    figures: dict[str, float] = {}
    rates = {}
    for phase in Bench(config).phases():
        floor, taken, ratio = in_turns(phase)
        figures |= {
            f"{phase.name}_floor_ms": floor * 1e3,
            f"{phase.name}_ms": taken * 1e3,
            f"{phase.name}_ratio": ratio,
        }
        groups = config.learning.groups_per_update if phase.unit == "update" else 1
        rates[phase.name] = groups * config.sampling.samples_per_group / taken
    slowest = min(rates, key=lambda name: rates[name])
    figures |= {f"{name}_images_per_s": rate for name, rate in rates.items()}
    return Finding(
        status="measured",
        expected="nothing: it is this machine's figure",
        found=f"{rates[slowest]:.3g} images/s in the slowest phase, {slowest}",
        figures={name: round(value, 4) for name, value in figures.items()},
    )


def fleet_learns(run_file: Path, overrides: Sequence[str], runs: Path, updates: int) -> Finding:
    """A run of its own through Ray and Redis: the reward of its last updates is above that of its first."""
    name = "accept"
    command = [sys.executable, "-m", "services", "train", str(run_file), *overrides, f"name={name}", f"runs={runs}"]
    command += [f"learning.updates={updates}", "learning.warmup_updates=2", "learning.final_rate_share=1"]
    command += ["evaluation=null", f"learning.checkpoint_every={updates}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
    return judge_history(read_history(runs / name / "history.jsonl"), updates)


def judge_history(records: Sequence[UpdateRecord], updates: int) -> Finding:
    """Whether the first reward's last step rose by more than its standard errors; and the run's own figures."""
    title = next(iter(records[0].figures.rewards))
    values = [_last_scored(record.figures.rewards[title].mean) for record in records]
    first, last = values[:COMPARED], values[-COMPARED:]
    rise = statistics.mean(last) - statistics.mean(first)
    error = math.sqrt((statistics.variance(first) + statistics.variance(last)) / COMPARED)
    drifts = [record.figures.guard_drift for record in records if not math.isnan(record.figures.guard_drift)]
    seconds = records[-1].run_seconds
    figures: Figures = {
        "reward": title,
        "first": statistics.mean(first),
        "last": statistics.mean(last),
        "standard_error": error,
        "guard_drift_max": max(drifts, default=None),
        "images": records[-1].images_total,
        "images_per_s": records[-1].images_total / seconds,
        "seconds": seconds,
    }
    good = len(records) == updates and rise > STANDARD_ERRORS * error
    return Finding(
        status="passed" if good else "failed",
        expected=f"{updates} updates, {title} up by more than {STANDARD_ERRORS:g} standard errors, {error:.2g} each",
        found=f"{len(records)} updates, {statistics.mean(first):.3f} -> {statistics.mean(last):.3f}",
        figures=figures,
    )


def _last_scored(steps: Sequence[float]) -> float:
    return [value for value in steps if not math.isnan(value)][-1]
