"""Where a run stands: what its folder and its server say, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.data.claims import Held
from services.observe.text import duration_text
from services.observe.workers import WorkerFigures, WorkersFile

FATES = ("dispatched", "consumed", "evicted", "failed", "dead", "in_flight")
WIDE = 120
"""Columns from which on a terminal has room for all that is known of a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One look at a run."""

    unix_time: float
    run: str
    status: Mapping[str, Any] | None  # status.json; None before the first update
    queue: Mapping[str, Any] | None  # QueueStatistics, plain: the server's now, or those of the last update
    live: bool  # whether they are the server's
    workers: WorkersFile | None
    held: Mapping[str, Held]  # by slot; only from the server


def tables(now: Standing, past: Standing | None, width: int) -> RenderableType:
    """The run, its queue and its workers. past: an earlier look, for rates; None: there is none yet."""
    parts: list[RenderableType] = [run_table(now, past)]
    if now.workers is not None:
        parts.append(workers_table(now, past, wide=width >= WIDE))
    return Group(*parts)


def run_table(now: Standing, past: Standing | None) -> RenderableType:
    """Progress, weights, rewards, queue and fates."""
    if now.status is None and now.queue is None:
        return Text(f"{now.run}: no update yet")
    if now.status is None:
        table = Table(title=f"{now.run}: no update yet", show_header=False)
    else:
        record, planned = now.status["record"], now.status["planned_updates"]
        table = Table(title=f"{now.run}: update {record['update']} of {planned}", show_header=False)
        table.add_row("last update", f"{now.unix_time - record['unix_time']:.0f} s ago")
        table.add_row("pace", _pace(record, planned))
        table.add_row("weights", f"version {record['version']}, lineage {record['lineage']}")
        stale = record["staleness"]
        table.add_row("staleness", _span(min(stale, default=0), max(stale, default=0)))
        for name, figures in record["report"]["rewards"].items():
            means = [f"{mean:.3f}" if mean is not None else "-" for mean in figures["mean"]]
            table.add_row(f"reward {name}", " ".join(means))
    if now.queue is not None:
        for stage, figures in now.queue["stages"].items():
            age = f", oldest {figures['oldest_age_s']:.0f} s" if now.live and figures["ready"] else ""
            table.add_row(stage, f"{figures['ready']} ready, {figures['pending']} in work{age}")
        for fate in FATES:
            rate = _rate(now, past, fate) if fate in ("dispatched", "consumed") else ""
            table.add_row(fate.replace("_", " "), f"{now.queue[fate]}{rate}")
    if now.status is not None:
        table.add_row("metrics", now.status["metrics"])
    return table


def workers_table(now: Standing, past: Standing | None, *, wide: bool) -> Table:
    """The workers by role, as the supervisor last saw them."""
    assert now.workers is not None
    before = {} if past is None or past.workers is None else {worker.slot: worker for worker in past.workers.workers}
    seconds = 0.0 if past is None or past.workers is None else now.workers.unix_time - past.workers.unix_time
    columns = ["state", "does", "groups", "busy", "weights", "deaths"]
    more = ["a minute", "life", "beat", "holds", "lease"]
    ended = any(worker.reason for worker in now.workers.workers)
    age = max(now.unix_time - now.workers.unix_time, 0)
    table = Table(title=f"workers, {age:.0f} s ago")
    table.add_column("worker", no_wrap=True)
    for column in (*columns, *(more if wide else ()), *(["last end"] if ended else ())):
        table.add_column(column)
    for worker in _by_role(now.workers.workers):
        row = [*_known(worker, wide=wide)]
        if wide:
            held = now.held.get(worker.slot)
            row += [
                _groups_a_minute(worker, before.get(worker.slot), seconds),
                str(worker.incarnation),
                f"{worker.silence_s:.1f} s",
                "-" if held is None else str(held.claims),
                "-" if held is None else f"{held.lease_age_s:.1f} s",
            ]
        row += [worker.reason] if ended else []
        table.add_row(*(Text(cell) for cell in row))
    return table


def _known(worker: WorkerFigures, *, wide: bool) -> Sequence[str]:
    digest = f" {worker.digest[:8]}" if wide else ""
    whole = worker.busy_s + worker.idle_s
    return (
        worker.slot,
        worker.state,
        worker.work if worker.work.startswith("update") else f"{worker.phase} {worker.work}".strip(),
        str(worker.groups),
        f"{worker.busy_s / whole:.0%}" if whole else "-",
        f"{worker.version}{digest}" if worker.version else "-",
        str(worker.deaths),
    )


def _span(low: int, high: int) -> str:
    return f"{low} to {high} updates" if low < high else f"{low} update{'' if low == 1 else 's'}"


def _by_role(workers: Sequence[WorkerFigures]) -> Sequence[WorkerFigures]:
    order = {"rollout": 0, "reward": 1, "learner": 2}
    return sorted(workers, key=lambda worker: (order.get(worker.role, len(order)), _number(worker)))


def _number(worker: WorkerFigures) -> int:
    return int(worker.replica) if worker.replica.isdigit() else 0


def _groups_a_minute(worker: WorkerFigures, before: WorkerFigures | None, seconds: float) -> str:
    if before is None or seconds <= 0.0 or worker.groups < before.groups:
        return "-"
    return f"{60.0 * (worker.groups - before.groups) / seconds:.1f}"


def _rate(now: Standing, past: Standing | None, fate: str) -> str:
    if past is None or past.queue is None or not (now.live and past.live) or now.unix_time <= past.unix_time:
        return ""
    assert now.queue is not None
    rise = now.queue[fate] - past.queue[fate]
    return "" if rise < 0 else f", {60.0 * rise / (now.unix_time - past.unix_time):.1f} a minute"


def _pace(record: Mapping[str, Any], planned: int) -> str:
    each = record["run_seconds"] / record["update"]
    left = duration_text(each * (planned - record["update"]))
    return f"{each:.1f} s an update, {left} left"
