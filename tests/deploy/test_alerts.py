"""Every alert fires for its fault, stays silent where nothing is wrong, and has a place in the runbook."""

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from services.observe.metric_table import METRICS

from .faults import FAULTS, HARMLESS, HEALTHY, LAST, MENDED, Fault

FOLDER = Path(__file__).resolve().parents[2] / "deploy/observability"
RULES = {
    rule.get("alert") or rule["record"]: rule
    for file in sorted((FOLDER / "rules").glob("*.yml"))
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
}
ALERTS = {name: rule for name, rule in RULES.items() if "alert" in rule}
RUNBOOK = (FOLDER / "RUNBOOK.md").read_text()
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)
needs_amtool = pytest.mark.skipif(
    shutil.which("amtool") is None, reason="amtool is not installed (Debian: prometheus-alertmanager)"
)


def unknown_names(expression: str) -> set[str]:
    """The metrics an expression reads that neither the table nor a recording rule makes."""
    made = {name for metric in METRICS for name in (metric.name, *histogram_names(metric.name, metric.kind))}
    named = set(re.findall(r"\b(?:[a-z_]+:)?tafs_\w+(?::\w+)?", expression))
    return named - made - {name for name in RULES if name not in ALERTS}


def histogram_names(name: str, kind: str) -> tuple[str, ...]:
    return tuple(f"{name}_{part}" for part in ("bucket", "sum", "count")) if kind == "histogram" else ()


def run(*command: str | Path) -> None:
    quick = {**os.environ, "GOGC": "800"}  # half of promtool's time is its garbage collector's
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quick)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", RULES)
def test_a_rule_reads_only_metrics_of_the_table(name: str) -> None:
    assert unknown_names(RULES[name]["expr"]) == set()


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_severity_a_summary_and_a_runbook_heading_with_all_three_answers(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"deploy/observability/RUNBOOK.md#{name.lower()}"
    section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert section is not None
    for answer in ("**Means**", "**Look at**", "**Do**"):
        assert answer in section.group(1)


def test_the_runbook_describes_no_alert_that_does_not_exist() -> None:
    assert set(re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)) == set(ALERTS)


def test_every_alert_is_the_root_of_a_fault() -> None:
    assert {fault.root for fault in FAULTS.values()} == set(ALERTS)


def table(heading: str) -> list[list[str]]:
    """The rows of the runbook's table whose first column has that heading."""
    lines = RUNBOOK.split(f"| {heading} |", 1)[1].splitlines()[2:]
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]


def test_the_runbooks_table_is_the_table_of_the_faults() -> None:
    written = {what: (root, frozenset(also.split(", ")) - {""}) for what, root, also, _ in table("What happens")}
    assert written == {what: (fault.root, fault.consequences) for what, fault in FAULTS.items()}


def test_the_runbook_tells_which_faults_a_run_mends_without_a_call() -> None:
    assert [what for what, *_ in table("What mends itself")] == list(MENDED)


@pytest.mark.parametrize("what", [what for what, fault in FAULTS.items() if fault.consequences])
def test_alertmanager_holds_back_what_follows_from_a_fault(what: str) -> None:
    rules = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())["inhibit_rules"]

    def held_back(source: str, target: str) -> bool:
        return any(
            all(matches(matcher, source) for matcher in rule["source_matchers"])
            and all(matches(matcher, target) for matcher in rule["target_matchers"])
            and rule["equal"] == ["run"]
            for rule in rules
        )

    fault = FAULTS[what]
    assert all(held_back(str(fault.root), consequence) for consequence in fault.consequences)


def matches(matcher: str, alert: str) -> bool:
    """Whether a matcher of Alertmanager's on the alert's name takes it."""
    label, operator, value = re.fullmatch(r'(\w+)\s*(=~|!=|=)\s*"?([^"]*)"?', matcher).groups()
    assert label == "alertname"
    if operator == "=~":
        return re.fullmatch(value, alert) is not None
    return (value == alert) == (operator == "=")


@needs_promtool
def test_prometheus_accepts_the_configuration_and_the_rules() -> None:
    run("promtool", "check", "config", FOLDER / "prometheus.yml")


@needs_amtool
def test_alertmanager_accepts_its_configuration() -> None:
    run("amtool", "check-config", FOLDER / "alertmanager.yml")


@needs_promtool
@pytest.mark.integration
@pytest.mark.parametrize("what", [*FAULTS, *HARMLESS])
def test_a_fault_raises_its_alerts_and_no_other(what: str, tmp_path: Path) -> None:
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(promtool_test({**FAULTS, **HARMLESS}[what]), width=200))
    run("promtool", "test", "rules", file)


def promtool_test(fault: Fault) -> dict:
    """promtool's unit test of a fault: exactly which alerts fire at that minute."""
    firing = fault.consequences | ({fault.root} if fault.root else set())
    fires = {
        "expr": 'count by (alertname, run) (ALERTS{alertstate="firing"})',
        "eval_time": f"{fault.at}m",
        "exp_samples": [{"labels": f'{{alertname="{name}", run="r"}}', "value": 1} for name in sorted(firing)],
    }
    fired = {
        "expr": f'count by (alertname) (max_over_time(ALERTS{{alertstate="firing"}}[{LAST}m]))',
        "eval_time": f"{LAST}m",
        "exp_samples": [],
    }
    queries = [fires] if fault.root or fault.glimpse else [fires, fired]
    series = [{"series": of_run(name), "values": values} for name, values in (HEALTHY | fault.series).items()]
    return {
        "rule_files": [str(file) for file in sorted((FOLDER / "rules").glob("*.yml"))],
        "evaluation_interval": "30s",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": queries}],
    }


def of_run(series: str) -> str:
    """The series as run "r" exposes it."""
    name, _, labels = series.partition("{")
    return f'{name}{{run="r",instance="host:1",{labels or "}"}'
