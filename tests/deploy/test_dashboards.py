"""The dashboards are what their code says, show only what exists, and explain themselves."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from services.observe.metric_table import METRICS

from .test_alerts import ALERTS, FOLDER, RULES, RUNBOOK, unknown_names

BOARDS = {file.stem: json.loads(file.read_text()) for file in sorted((FOLDER / "dashboards").glob("*.json"))}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
SCHEMA = Path(__file__).resolve().parent / "grafana_schema"


def expressions(panel: dict) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def test_what_is_committed_is_what_the_code_emits() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk is not installed")
    from deploy.observability.dashboards import BOARDS as CODE
    from deploy.observability.dashboards import emit

    assert BOARDS.keys() == CODE.keys()
    for name in CODE:
        committed = (FOLDER / f"dashboards/{name}.json").read_text()
        assert emit(name) == committed, f"{name}: run python -m deploy.observability.dashboards"


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_reads_one_run_and_only_metrics_that_exist(panel: dict) -> None:
    assert expressions(panel)
    for expression in expressions(panel):
        assert unknown_names(expression) == set()
        selectors = re.findall(r"((?:[a-z_]+:)?tafs_[\w:]+|ALERTS|\bup)(\{[^}]*\})?", expression)
        assert selectors
        assert all('run="$run"' in labels for _, labels in selectors)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_a_description_a_unit_and_the_chosen_data_source(panel: dict) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@pytest.mark.parametrize("panel", PANELS)
def test_a_panels_links_lead_to_headings_of_the_runbook(panel: dict) -> None:
    headings = {f"${{runbook}}#{name.lower()}" for name in ALERTS}
    assert {link["url"] for link in panel.get("links", ())} <= headings


def test_every_alert_is_linked_from_a_panel() -> None:
    linked = {link["title"].removeprefix("Runbook: ") for p in PANELS for link in p.values[0].get("links", ())}
    assert linked == set(ALERTS)


def test_every_metric_of_the_table_is_shown_or_alerted_on() -> None:
    shown = " ".join(expression for p in PANELS for expression in expressions(p.values[0]))
    read = shown + " ".join(rule["expr"] for rule in RULES.values()) + json.dumps(BOARDS["overview"]["templating"])
    assert [metric.name for metric in METRICS if not re.search(rf"\b{metric.name}(?!\w*_total)", read)] == []


def test_the_runbooks_table_names_panels_that_exist() -> None:
    titles = {
        (board["title"].partition(": ")[2].casefold(), panel["title"])
        for board in BOARDS.values()
        for panel in board["panels"]
    }
    for line in RUNBOOK.splitlines():
        if line.startswith("|") and not line.startswith(("|--", "| What")):
            board, _, title = line.strip("| ").rpartition(" | ")[2].partition(": ")
            assert (board.casefold(), title) in titles


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_numbers_of_their_own_and_lie_side_by_side(name: str) -> None:
    panels = BOARDS[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_data_source_and_run_can_be_chosen_on_every_dashboard() -> None:
    for board in BOARDS.values():
        variables = {variable["name"]: variable for variable in board["templating"]["list"]}
        assert variables["datasource"]["type"] == "datasource"
        assert variables["run"]["query"] == "label_values(tafs_run_info, run)"
        assert {"window", "runbook"} < variables.keys()
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)


@pytest.mark.skipif(
    not (SCHEMA / "node_modules").is_dir() or shutil.which("node") is None,
    reason="Grafana's schema is not installed: npm ci --prefix tests/deploy/grafana_schema",
)
def test_the_dashboards_have_the_shape_of_grafanas_own_types() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    done = subprocess.run(
        (
            "node_modules/.bin/ts-json-schema-generator",
            *("--path", "dashboard.ts", "--type", "Root", "--tsconfig", "tsconfig.json", "--no-type-check"),
        ),
        cwd=SCHEMA,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    validator = jsonschema.Draft7Validator(json.loads(done.stdout))
    assert not validator.is_valid({**BOARDS["overview"], "refresh": 10}), "the schema refuses nothing"
    for name, board in BOARDS.items():
        complaints = [f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(board)]
        assert complaints == [], name
