"""`tafs status`: where a run stands, from its run folder."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.errors import ConfigError
from services.observe.workers import read_workers


def show_status(folder: Path) -> None:
    """Print the last update's figures and the queue. ConfigError where the folder is not a run's."""
    path = folder / "status.json"
    if not path.is_file():
        raise ConfigError(f"expected a run folder with a finished update, found no {path}")
    status = json.loads(path.read_text())
    record, queue = status["record"], status["queue"]
    table = Table(title=f"{status['run']}: update {record['update']} of {status['planned_updates']}", show_header=False)
    table.add_row("last update", f"{time.time() - record['unix_time']:.0f} s ago")
    table.add_row("weights", f"version {record['version']}, lineage {record['lineage']}")
    for name, figures in record["report"]["rewards"].items():
        means = [f"{mean:.3f}" if mean is not None else "-" for mean in figures["mean"]]
        table.add_row(f"reward {name}", " ".join(means))
    for stage, figures in queue["stages"].items():
        table.add_row(stage, f"{figures['ready']} ready, {figures['pending']} in work")
    for fate in ("dispatched", "consumed", "evicted", "failed", "dead", "in_flight"):
        table.add_row(fate.replace("_", " "), str(queue[fate]))
    table.add_row("metrics", status["metrics"])
    Console().print(table)
    show_workers(folder)


def show_workers(folder: Path) -> None:
    """Print the run's workers as the supervisor last saw them; nothing before its first look."""
    file = read_workers(folder)
    if file is None:
        return
    columns = ("worker", "state", "does", "groups", "busy", "weights", "deaths", "last end")
    table = Table(*columns, title=f"workers, {max(time.time() - file.unix_time, 0):.0f} s ago")
    for worker in file.workers:
        seconds = worker.busy_s + worker.idle_s
        busy = f"{worker.busy_s / seconds:.0%}" if seconds else "-"
        does = f"{worker.phase} {worker.work}".strip()
        weights = f"{worker.version} {worker.digest[:8]}" if worker.version else "-"
        row = (worker.slot, worker.state, does, str(worker.groups), busy, weights, str(worker.deaths), worker.reason)
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
