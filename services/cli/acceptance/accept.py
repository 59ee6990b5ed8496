"""`tafs accept`: every claim in turn, told as they are found, and written as one JSON file that can be shared."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from services.cli.acceptance.claim import Claim, Outcome, look_at
from services.cli.acceptance.families import family_claims
from services.cli.acceptance.ranks import sums_agree
from services.cli.acceptance.run_claims import UPDATES, fleet_learns, memory_fits, phases_take
from services.cli.run_file import load_run_file
from services.config import RunConfig
from services.errors import ConfigError, ExitCode
from services.fleet.planning.run_folder import provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for."""

    run_file: Path
    overrides: tuple[str, ...]
    only: tuple[str, ...]  # beginnings of claims' names; empty = all
    output: Path
    updates: int = UPDATES


def accept(request: Request, say: Callable[[str], object]) -> ExitCode:
    """Look at every claim, write the report; DONE where none failed. Raises ConfigError."""
    gpus = torch.cuda.device_count()
    overrides = (*fleet_overrides(load_run_file(request.run_file, request.overrides), gpus), *request.overrides)
    config = load_run_file(request.run_file, overrides)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tafs-accept-") as folder:
        claims = chosen(list(all_claims(config, request, overrides, Path(folder), gpus)), request.only)
        outcomes = []
        for claim in claims:
            outcome = look_at(claim, gpus)
            outcomes.append(outcome)
            say(f"{outcome.status:9} {outcome.name}: {outcome.found} (expected {outcome.expected})")
    report = report_of(request, outcomes, time.monotonic() - started)
    request.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    say(f"{report['counts']} in {request.output}")
    return ExitCode.BUG if report["counts"]["failed"] else ExitCode.DONE


def all_claims(
    config: RunConfig, request: Request, overrides: Sequence[str], folder: Path, gpus: int
) -> Iterator[Claim]:
    """In the order in which they are looked at: what is quick and small first."""
    device = "cuda" if gpus else "cpu"
    for place in dict.fromkeys((device, "cuda")):  # without a GPU: the CPU's half, and what is skipped by name
        yield from family_claims(folder / "twins", place)
    yield Claim(name="sums:gloo", gpus=0, check=partial(sums_agree, folder, 0))
    yield Claim(name="sums:nccl", gpus=1, check=partial(sums_agree, folder, gpus))
    for role in ("rollout", "learner"):
        yield Claim(
            name=f"memory:{role}",
            gpus=1,
            check=partial(memory_fits, config, role),
            why="only CUDA's allocator tells what was allocated at most",
        )
    learns = partial(fleet_learns, request.run_file, overrides, folder / "runs", request.updates)
    for place in dict.fromkeys((device, "cuda")):
        needed = 1 if place == "cuda" else 0
        yield Claim(name=f"speed:{place}", gpus=needed, check=partial(phases_take, config))
        yield Claim(name=f"learning:{place}", gpus=needed, check=learns)


def chosen(claims: Sequence[Claim], only: Sequence[str]) -> list[Claim]:
    """Those whose name begins with one of `only`. ConfigError where one of these names nothing."""
    for beginning in only:
        if not any(claim.name.startswith(beginning) for claim in claims):
            names = ", ".join(dict.fromkeys(claim.name.partition(":")[0] for claim in claims))
            raise ConfigError(f"--only: expected the beginning of a claim's name ({names}), found {beginning!r}")
    return [claim for claim in claims if not only or claim.name.startswith(tuple(only))]


def fleet_overrides(config: RunConfig, gpus: int) -> list[str]:
    """Shares of this machine's GPUs for a run file that asks for none: two ranks and the rest rollouts, or one GPU
    shared.
    """
    if gpus == 0 or config.fleet.learner.gpus or config.fleet.rollout.gpus:
        return []
    if gpus < 3:
        return ["fleet.learner.gpus=0.5", "fleet.rollout.gpus=0.5"]
    return [
        *("fleet.learner.workers=2", "fleet.learner.gpus=1"),
        *(f"fleet.rollout.workers={gpus - 2}", "fleet.rollout.gpus=1"),
    ]


def report_of(request: Request, outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """The report's content; it names no host, user or path but the run file's."""
    counts = dict.fromkeys(("passed", "failed", "measured", "skipped"), 0)
    for outcome in outcomes:
        counts[outcome.status] += 1
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(),
        "run_file": str(request.run_file),
        "overrides": list(request.overrides),
        "machine": machine(),
        "seconds": round(seconds, 1),
        "counts": counts,
        "claims": [asdict(outcome) for outcome in outcomes],
    }


def machine() -> dict[str, Any]:
    """Hardware and versions, as far as they change what is found."""
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": platform.machine(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if gpus else None,  # type: ignore[no-untyped-call]
        "gpus": [{"name": gpu.name, "gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
    }
