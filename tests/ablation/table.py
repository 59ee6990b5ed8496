"""What a study found: one table and one figure, arms against a baseline, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TARGET = 0.8
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t for a two-sided 95 % interval, by degrees of freedom; beyond, the normal's 1.96."""

Record = Mapping[str, Any]


def first_reached(curve: Sequence[Record], figure: str, axis: str, target: float = TARGET) -> float:
    """Where on `axis` (images or seconds) the figure first reaches the target, between evaluations linearly; infinity
    where it does not: censored at the budget.
    """
    before: Record | None = None
    for point in curve:
        if point[figure] >= target:
            if before is None:
                return float(point[axis])
            share = (target - before[figure]) / (point[figure] - before[figure])
            return float(before[axis] + share * (point[axis] - before[axis]))
        before = point
    return math.inf


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t); the width is NaN for a single value."""
    column = np.array(values, dtype=np.float64)
    if len(column) < 2:
        return float(column.mean()), math.nan
    return float(column.mean()), T_95.get(len(column) - 1, 1.96) * float(column.std(ddof=1)) / len(column) ** 0.5


def paired(records: Sequence[Record], arm: str, baseline: str, figure: str) -> tuple[float, float]:
    """Mean and half width of the arm's last figure minus the baseline's, over the seeds that both have."""
    last = {(r["arm"], r["seed"]): r["curve"][-1][figure] for r in records}
    seeds = sorted({seed for name, seed in last if name == arm} & {seed for name, seed in last if name == baseline})
    return interval([last[arm, seed] - last[baseline, seed] for seed in seeds]) if seeds else (math.nan, math.nan)


def ratio(
    records: Sequence[Record], arm: str, baseline: str, axis: str, target: float = TARGET
) -> tuple[float, float, float]:
    """How many times what the baseline needs to reach the target the arm needs: geometric mean over the seeds where
    both reach it, and the ends of its 95 % interval; NaN where there are none, or no interval.
    """
    reached = {(r["arm"], r["seed"]): first_reached(r["curve"], "serving", axis, target) for r in records}
    logs = [
        math.log(value / reached[baseline, seed])
        for (name, seed), value in reached.items()
        if name == arm and math.isfinite(value) and math.isfinite(reached.get((baseline, seed), math.inf))
    ]
    if not logs:
        return math.nan, math.nan, math.nan
    mean, half = interval(logs)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def arms_of(records: Sequence[Record]) -> list[str]:
    """In order of first appearance."""
    return list(dict.fromkeys(record["arm"] for record in records))


def table(records: Sequence[Record], baseline: str, target: float = TARGET) -> str:
    """Markdown, one line per arm."""
    head = (
        "arm", "seeds", "settings", "serving", "tau 0", "judge", "serving - baseline", f"images to {target:g}",
        "images / baseline's", f"CPU seconds to {target:g}", "seconds / baseline's", "CPU seconds", "distance",
        "dropped",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for arm in arms_of(records):
        mine = [record for record in records if record["arm"] == arm]
        lasts = {name: interval([r["curve"][-1][name] for r in mine]) for name in ("serving", "tau_0", "judge_serving")}
        lines.append(
            "| "
            + " | ".join(
                (
                    arm,
                    str(len(mine)),
                    "; ".join(dict.fromkeys(_chosen(record) for record in mine)),
                    *(_pm(*found) for found in lasts.values()),
                    "-" if arm == baseline else _pm(*paired(records, arm, baseline, "serving"), sign="+"),
                    _reached(mine, "images", target),
                    "-" if arm == baseline else _times(*ratio(records, arm, baseline, "images", target)),
                    _reached(mine, "seconds", target),
                    "-" if arm == baseline else _times(*ratio(records, arm, baseline, "seconds", target)),
                    f"{np.mean([record['seconds'] for record in mine]):.0f}",
                    f"{np.nanmean([record['distance'] for record in mine]):.2f}",
                    f"{np.mean([record['dropped'] for record in mine]):.3f}",
                )
            )
            + " |"
        )
    return "\n".join(lines)


def _chosen(record: Record) -> str:
    """The searched settings: what differs beside the arm's own."""
    kept = [text for text in record["settings"] if text.startswith(("learning.rate=", "sampling.temperature="))]
    return " ".join(text.split("=", 1)[1] for text in kept)


def _pm(mean: float, half: float, sign: str = "") -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:{sign}.3f}" + ("" if math.isnan(half) else f" ± {half:.3f}")


def _times(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]")


def _reached(records: Sequence[Record], axis: str, target: float) -> str:
    """The median over seeds; a median that is censored says the budget it did not reach it with."""
    found = sorted(first_reached(record["curve"], "serving", axis, target) for record in records)
    middle = found[len(found) // 2] if len(found) % 2 else found[len(found) // 2 - 1]
    count = sum(math.isfinite(value) for value in found)
    budget = max(record["curve"][-1][axis] for record in records)
    text = f"> {budget:,.0f}" if math.isinf(middle) else f"{middle:,.0f}"
    return f"{text} ({count}/{len(found)})"


def figure(records: Sequence[Record], baseline: str, path: Path, target: float = TARGET) -> None:
    """Left: the serving sampler's figure over images, mean and range over seeds. Right: each arm's last figure
    minus the baseline's, paired by seed, with 95 % intervals, for both samplers.
    """
    from matplotlib.figure import Figure

    arms = arms_of(records)
    picture = Figure(figsize=(11, 1.6 + 0.32 * max(len(arms), 8)), layout="constrained")
    left, right = picture.subplots(1, 2, width_ratios=(1.4, 1))
    for number, arm in enumerate(arms):
        curves = [record["curve"] for record in records if record["arm"] == arm]
        x = sorted({point["images"] for curve in curves for point in curve})
        y = np.array([_interpolated(curve, x) for curve in curves])
        line = left.plot(x, y.mean(0), label=arm, linestyle=("-", "--", ":")[number // 10 % 3])[0]
        left.fill_between(x, y.min(0), y.max(0), color=line.get_color(), alpha=0.12, linewidth=0)
    left.axhline(target, color="0.6", linewidth=0.8)
    left.set(xlabel="images trained on", ylabel="held-out figure, serving sampler")
    if all(0.0 <= point["serving"] <= 1.0 for record in records for point in record["curve"]):
        left.set_ylim(0, 1)
    left.legend(fontsize=7, ncols=2)
    others = [arm for arm in arms if arm != baseline]
    for offset, sampler in ((0.12, "serving"), (-0.12, "tau_0")):
        found = [paired(records, arm, baseline, sampler) for arm in others]
        right.errorbar(
            [mean for mean, _ in found],
            np.arange(len(others)) + offset,
            xerr=np.nan_to_num([half for _, half in found]),
            fmt="o",
            markersize=3,
            label=sampler.replace("_", " "),
        )
    right.axvline(0.0, color="0.6", linewidth=0.8)
    right.set_yticks(range(len(others)), others, fontsize=7)
    right.set(xlabel=f"figure minus {baseline}, paired by seed, 95 %")
    right.legend(fontsize=7)
    picture.savefig(path, dpi=120)


def _interpolated(curve: Sequence[Record], images: Sequence[int]) -> list[float]:
    """The curve between its points, linearly."""
    known, found = [point["images"] for point in curve], [point["serving"] for point in curve]
    return [float(value) for value in np.interp(images, known, found)]


def write_results(records: Sequence[Record], baseline: str, folder: Path, target: float = TARGET) -> None:
    """Print the table; keep it and the figure in the folder."""
    text = table(records, baseline, target)
    print(text)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    figure(records, baseline, folder / "figure.png", target)
