"""One thing that is claimed, and what was found when it was looked at."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["passed", "failed", "measured", "skipped"]
"""measured: a figure that nothing is expected of."""
Figures = Mapping[str, float | int | str | bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found."""

    status: Status
    expected: str
    found: str
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A check with its name."""

    name: str  # kind and of what, e.g. parity:flux1:bfloat16:cuda
    gpus: int  # fewer than so many, and it is skipped
    check: Callable[[], Finding]
    why: str = ""  # why a machine without them cannot tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A claim's line in the report."""

    name: str
    status: Status
    expected: str
    found: str
    figures: Figures
    seconds: float


def look_at(claim: Claim, gpus: int, clock: Callable[[], float] = time.perf_counter) -> Outcome:
    """The outcome on a machine with so many GPUs. A check that raises has failed; the others still run."""
    started = clock()
    if gpus < claim.gpus:
        found = Finding(
            status="skipped",
            expected=f"at least {claim.gpus} GPU(s)" + (f": {claim.why}" if claim.why else ""),
            found=f"{gpus}",
        )
    else:
        try:
            found = claim.check()
        except Exception as error:  # whatever it is, it is this claim's finding
            found = Finding(
                status="failed",
                expected="to come to its end",
                found=f"{type(error).__name__}: {error}",
                figures={"traceback": traceback.format_exc(limit=-6)},
            )
    return Outcome(
        name=claim.name,
        status=found.status,
        expected=found.expected,
        found=found.found,
        figures=found.figures,
        seconds=round(clock() - started, 3),
    )


def at_most(found: float, limit: float, unit: str, figures: Figures | None = None) -> Finding:
    """Passed where found <= limit; a NaN is not."""
    return Finding(
        status="passed" if found <= limit else "failed",
        expected=f"at most {limit:g}",
        found=f"{found:.3g} {unit}",
        figures=figures or {},
    )
