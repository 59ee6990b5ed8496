"""`tafs status`: where a run stands, from its run folder."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from services.errors import ConfigError


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
