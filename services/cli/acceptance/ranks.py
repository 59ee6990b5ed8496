"""The learner's ranks on this machine: sums over NCCL, or over gloo where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from services.cli.acceptance.claim import Finding

TIMEOUT_S = 180
ROUNDING = 1e-6


def sums_agree(parent: Path, gpus: int) -> Finding:
    """One process a GPU, or two on the CPU: an all-reduce of 64 MiB is exact and every rank has the same bytes."""
    backend, size = ("nccl", gpus) if gpus else ("gloo", 2)  # a rank has a GPU of its own: NCCL takes no two on one
    meeting = str(parent / f"meeting-{backend}")
    probe = [sys.executable, "-m", "services.cli.acceptance.rank_probe", meeting, backend, str(size)]
    ranks = [
        subprocess.Popen([*probe, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    try:
        said = [rank.communicate(timeout=TIMEOUT_S) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    if any(rank.returncode for rank in ranks):
        raise RuntimeError("\n".join(stderr[-1500:] for _, stderr in said))
    found = [json.loads(stdout.splitlines()[-1]) for stdout, _ in said]
    equal = len({rank["digest"] for rank in found}) == 1
    worst = max(rank["error"] for rank in found)
    alone = ", which says that NCCL loads and no more" if size == 1 else ""
    return Finding(
        status="passed" if equal and worst <= ROUNDING else "failed",
        expected=f"equal bytes on every rank, and the sum within {ROUNDING:g}",
        found=f"{size} rank(s) over {backend}{alone}: {'equal' if equal else 'different'} bytes, error {worst:.2g}",
        figures={"gib_per_s": min(rank["gib_per_s"] for rank in found), "ranks": size, "backend": backend},
    )
