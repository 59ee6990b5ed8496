"""summary.json: what a run reached, as figures before and after training with the intervals behind them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from services.data.whole_file import write_whole
from services.observe.history import UpdateRecord

When = Literal["before", "after"]
WHENS: tuple[When, ...] = ("before", "after")

SHARES = ("exact_match", "judge_exact_match")
"""The metrics that stand at the top of every summary, empty where they were not evaluated; others stand below
"metrics"."""
Z_95 = 1.959963984540054
"""The standard normal's 97.5 % point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One figure: a metric over images that one sampler drew, before or after training."""

    sampler: str  # "serving", "tau_0", "tau_1", ...
    when: When
    metric: str  # "exact_match", "judge_exact_match", or a reward's name
    value: float  # mean over the images
    images: int
    std: float | None = None  # over the images; None: the metric is a share, 1 or 0 per image

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"{self.metric} of {self.sampler}: expected at least one image, found {self.images}")
        if self.std is None and not 0.0 <= self.value <= 1.0:
            raise ValueError(
                f"{self.metric} of {self.sampler}: expected a share between 0 and 1, found {self.value}; "
                "a metric that is no share needs its std"
            )

    @property
    def interval_95(self) -> tuple[float, float]:
        """The 95 % interval of the value: Wilson's for a share, the normal one for a mean."""
        if self.std is None:
            return wilson_interval(self.value, self.images)
        return normal_interval(self.value, self.std, self.images)


def wilson_interval(share: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """The score interval of a share p of n independent yes-or-no trials.

        (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22 (158), 209-212.
    Unlike p -+ z sqrt(p (1 - p) / n) it stays within [0, 1] and keeps its width at p = 0 and p = 1.
    """
    shrink = 1.0 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z * math.sqrt(share * (1.0 - share) / n + z * z / (4 * n * n)) / shrink
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))  # rounding ends at the share


def normal_interval(mean: float, std: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """The interval mean -+ z std / sqrt(n) of the mean of n independent values (central limit theorem)."""
    half = z * std / math.sqrt(n)
    return mean - half, mean + half


def build_summary(
    records: Sequence[UpdateRecord], evaluations: Sequence[Evaluation], *, wall_seconds: float, slots: int
) -> dict[str, Any]:
    """The summary of a run, ready for JSON.

    `wall_seconds` runs from the start to now; `slots` is how many network, decoder and scorer calls can run at
    once (GPUs, or CPU cores over cores per call). utilisation = sum of call_seconds / (wall_seconds slots): the
    share of the time in which the hardware did what the run exists for. Updates that a rollback took back count
    in none of the sums.
    """
    calls = _total([record.call_seconds for record in records])
    others = dict.fromkeys(entry.metric for entry in evaluations if entry.metric not in SHARES)
    return {
        **{metric: _figures(evaluations, metric) for metric in SHARES},
        "metrics": {metric: _figures(evaluations, metric) for metric in others},
        "updates": records[-1].update if records else 0,
        "images": records[-1].images_total if records else 0,
        "wall_seconds": wall_seconds,
        "phase_seconds": _total([record.phase_seconds for record in records]),
        "call_seconds": calls,
        "utilisation": sum(calls.values()) / (wall_seconds * slots) if wall_seconds > 0 else 0.0,
    }


def _figures(evaluations: Sequence[Evaluation], metric: str) -> dict[str, dict[str, Any]]:
    """By sampler: the figure before and after (null where not evaluated), images, interval and, of a mean, std."""
    table: dict[str, dict[str, Any]] = {}
    for evaluation in evaluations:
        if evaluation.metric != metric:
            continue
        row = table.setdefault(evaluation.sampler, {"before": None, "after": None, "images": {}, "interval_95": {}})
        row[evaluation.when] = evaluation.value
        row["images"][evaluation.when] = evaluation.images
        row["interval_95"][evaluation.when] = list(evaluation.interval_95)
        if evaluation.std is not None:
            row.setdefault("std", {})[evaluation.when] = evaluation.std
    return table


def _total(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row)
    return dict(total)


def evaluations_of(summary: Mapping[str, Any]) -> tuple[Evaluation, ...]:
    """The evaluations that a summary was built from."""
    tables = {**{metric: summary[metric] for metric in SHARES}, **summary["metrics"]}
    return tuple(
        _evaluation(sampler, when, metric, row)
        for metric, table in tables.items()
        for sampler, row in table.items()
        for when in WHENS
        if row[when] is not None
    )


def _evaluation(sampler: str, when: When, metric: str, row: Mapping[str, Any]) -> Evaluation:
    return Evaluation(
        sampler=sampler,
        when=when,
        metric=metric,
        value=row[when],
        images=row["images"][when],
        std=row.get("std", {}).get(when),
    )


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json; a reader sees the old file or the new one, never half of it."""
    write_whole(path, json.dumps(summary, indent=2, allow_nan=False) + "\n")


def read_summary(path: Path) -> dict[str, Any]:
    """What `write_summary` wrote."""
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary
