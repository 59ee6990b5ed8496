"""Real Prometheus and Alertmanager, with the shipped rules and dashboards, watch a run's exporter."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.observe.metric_table import METRICS
from tests.deploy.faults import FAULTS

from .strikes import STRIKES
from .watchers import (
    ALERTMANAGER,
    FOLDER,
    PROMETHEUS,
    RUN,
    Prometheus,
    Receiver,
    Run,
    complaints,
    free_port,
    programs,
    scrape,
    wait_for,
    write_configuration,
)

HEALTHY = "nothing"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        PROMETHEUS is None or ALERTMANAGER is None,
        reason="prometheus or alertmanager is not installed (Debian: prometheus, prometheus-alertmanager)",
    ),
]


@dataclass(frozen=True)
class Watched:
    """A run, and those who watch it."""

    run: Run
    prometheus: Prometheus
    receiver: Receiver


@pytest.fixture
def watched(tmp_path: Path, make_history) -> Iterator[Watched]:
    """A run in training that Prometheus has known for some scrapes."""
    records = make_history(600)
    for record in records:
        record.report["guard_drift"] = 2e-6
    receiver, run = Receiver(), Run(tmp_path / "runs", records)
    alerts, metrics = free_port(), free_port()
    write_configuration(tmp_path, tmp_path / "runs", alerts, receiver.url)
    prometheus = Prometheus(metrics)
    try:
        with programs(tmp_path, alerts, metrics):
            wait_for(prometheus.ready)
            wait_for(lambda: prometheus.query("sum(count_over_time(tafs_updates_total[1m]))") >= [6.0])
            yield Watched(run, prometheus, receiver)
    finally:
        run.die()
        receiver.close()


def expressions() -> Iterator[tuple[str, str]]:
    """Every panel's title and expression, with the dashboard's variables filled in."""
    for file in sorted((FOLDER / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"].replace("$run", RUN).replace("$window", "1m")
                yield f"{file.stem}: {panel['title']}", expression


def test_every_panel_and_every_rule_finds_data_and_a_healthy_run_alerts_nobody(watched: Watched) -> None:
    prometheus = watched.prometheus
    wait_for(lambda: prometheus.query("run:tafs_phase_wait:ratio_rate15m") != [])
    without = [(title, expression) for title, expression in expressions() if not prometheus.query(expression)]
    assert without == []
    rules = prometheus.rules()
    assert len(rules) == sum(file.read_text().count(" expr: ") for file in (FOLDER / "rules").glob("*.yml"))
    assert {rule["name"]: rule.get("lastError", "") for rule in rules} == {rule["name"]: "" for rule in rules}
    for rule in rules:
        for selector in re.findall(r"(?:[a-z_]+:)?tafs_[\w:]+(?:\{[^}]*\})?|up\{[^}]*\}", rule["query"]):
            name = re.sub(r"\{.*(state=\"failed\"|WeightsCorrupt).*\}", "", selector)  # no such thing happened
            assert prometheus.query(name) != [], (rule["name"], selector)
    assert [rule["name"] for rule in rules if rule.get("state") not in {None, "inactive"}] == []
    assert watched.receiver.alerts == []


def test_promtool_has_nothing_to_say_against_a_scrape(tmp_path: Path, make_history) -> None:
    run = Run(tmp_path / "runs", make_history(1))
    try:
        wait_for(lambda: b"tafs_loss{" in scrape(run.endpoint.address))
        scraped = scrape(run.endpoint.address)
    finally:
        run.die()
    assert scraped.count(b"# HELP") == len(METRICS)
    assert complaints(scraped) == ""
    assert "no help text" in complaints(b"# TYPE tafs_odd gauge\ntafs_odd 1\n")


def test_of_every_fault_the_team_hears_the_root_alert_alone(tmp_path: Path, make_history) -> None:
    receiver, alerts, metrics = Receiver(), free_port(), free_port()
    write_configuration(tmp_path, tmp_path / "runs", alerts, receiver.url)
    prometheus = Prometheus(metrics)
    names = {what: f"run-{number}" for number, what in enumerate((*STRIKES, HEALTHY))}
    roots = {names[what]: {FAULTS[what].root} for what in STRIKES}
    records = make_history(2000)
    runs = {what: Run(tmp_path / "runs", records, name) for what, name in names.items()}
    try:
        with programs(tmp_path, alerts, metrics):
            wait_for(prometheus.ready)
            known = "count(count_over_time(tafs_updates_total[1m]) >= 4)"
            wait_for(lambda: prometheus.query(known) == [float(len(runs))])
            assert prometheus.firing() == set()
            for what, strike in STRIKES.items():
                strike(runs[what])
            expected = {(names[what], alert) for what in STRIKES for alert in fires(what)}
            wait_for(lambda: expected <= prometheus.firing(), missing=lambda: expected - prometheus.firing())
            wait_for(lambda: roots.keys() <= receiver.names().keys())
            time.sleep(4)  # another group_interval: what is not held back would come now
            assert prometheus.firing() == expected
    finally:
        for run in runs.values():
            run.die()
        receiver.close()
    assert receiver.names() == roots
    for alert in receiver.alerts:
        told = json.dumps(alert["annotations"])
        assert alert["labels"]["run"] in told
        assert "error" not in told


def fires(what: str) -> set[str]:
    """The fault's alerts, those that are held back among them."""
    return {str(FAULTS[what].root), *FAULTS[what].consequences}
