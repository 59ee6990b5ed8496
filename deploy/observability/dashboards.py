"""The Grafana dashboards as code: `python -m deploy.observability.dashboards` writes dashboards/*.json.

boards/ says what is shown, one file per dashboard; panels.py how.
"""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.observability.boards.data_flow import DATA_FLOW
from deploy.observability.boards.learning import LEARNING
from deploy.observability.boards.overview import OVERVIEW
from deploy.observability.boards.shared import Rows
from deploy.observability.panels import SOURCE, build

FOLDER = Path(__file__).resolve().parent / "dashboards"
RUNBOOK = "https://localhost/RUNBOOK.md"
"""Only a placeholder: the dashboard's variable `runbook` says where the team keeps the runbook."""
TAG = "tafs"
INTERVALS_ONLY = ("auto", "auto_count", "auto_min")
"""What the SDK writes into every variable, and Grafana's schema allows for those of type interval alone."""
BOARDS: dict[str, tuple[str, str, Rows]] = {
    "overview": ("TAFS-GRPO: overview", "Is the run well, does it learn, what holds it up, what breaks.", OVERVIEW),
    "learning": ("TAFS-GRPO: learning", "Rewards, updates, and how far the policy moves.", LEARNING),
    "data-flow": ("TAFS-GRPO: data flow", "Rates, the queue, and what everything costs.", DATA_FLOW),
}
"""By file and uid: title, description, rows."""


def emit(name: str) -> str:
    """A dashboard's JSON."""
    title, description, rows = BOARDS[name]
    board = dashboard.Dashboard(title).uid(f"tafs-{name}").description(description).tags([TAG])
    board.refresh("10s").time("now-1h", "now").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    for choice in variables():
        board.with_variable(choice)
    links = dashboard.DashboardLink("TAFS-GRPO").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    board.link(links.keep_time(True).include_vars(True))
    number = 0
    for heading, specs in rows.items():
        number += 1
        board.with_row(dashboard.Row(heading).id(number))
        for spec in specs:
            number += 1
            board.with_panel(build(spec).id(number))
    plain = json.loads(json.dumps(board.build(), cls=JSONEncoder))
    for variable in plain["templating"]["list"]:
        for key in INTERVALS_ONLY:
            del variable[key]
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"


def variables() -> list[Builder[VariableModel]]:
    """What can be chosen: data source, run, window of rates, place of the runbook."""
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    run = dashboard.QueryVariable("run").label("Run").datasource(SOURCE).query("label_values(tafs_run_info, run)")
    run.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    run.description("A run is listed while Prometheus remembers it.")
    window = dashboard.CustomVariable("window").label("Window").values("1m,5m,15m,1h")
    window.current(VariableOption(selected=True, text="5m", value="5m"))
    window.description("Rates are means over this time; take at least four updates.")
    runbook = dashboard.TextBoxVariable("runbook").label("Runbook").default_value(RUNBOOK)
    runbook.description("Where RUNBOOK.md is kept, for the panels' links.")
    return [source, run, window, runbook]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for board in BOARDS:
        (FOLDER / f"{board}.json").write_text(emit(board), encoding="utf-8")
