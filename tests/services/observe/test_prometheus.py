"""Real Prometheus and Alertmanager, with the shipped rules and dashboards, watch a run's exporter."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from services.observe.metric_table import METRICS

from .figures import QUEUE
from .watchers import (
    FOLDER,
    RUN,
    Prometheus,
    Receiver,
    Run,
    complaints,
    free_port,
    processes,
    scrape,
    wait_for,
    write_configuration,
)

PROMETHEUS = shutil.which("prometheus")
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
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
        with processes(
            (
                ALERTMANAGER,
                f"--config.file={tmp_path}/alertmanager.yml",
                f"--storage.path={tmp_path}/alertmanager",
                f"--web.listen-address=127.0.0.1:{alerts}",
                "--cluster.listen-address=",
            ),
            (
                PROMETHEUS,
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/prometheus",
                f"--web.listen-address=127.0.0.1:{metrics}",
            ),
        ):
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


def test_promtool_has_nothing_to_say_against_a_scrape(watched: Watched) -> None:
    scraped = scrape(watched.run.endpoint.address)
    assert scraped.count(b"# HELP") == len(METRICS)
    assert complaints(scraped) == ""
    assert "no help text" in complaints(b"# TYPE tafs_odd gauge\ntafs_odd 1\n")


def die(run: Run) -> None:
    run.die()


def lose_redis(run: Run) -> None:
    run.redis_lives = False


def fail_to_score(run: Run) -> None:
    groups = replace(QUEUE.stages["groups"], failures=60)
    run.queue = replace(QUEUE, stages={**QUEUE.stages, "groups": groups}, dead=20)


@pytest.mark.parametrize(
    ("strike", "root", "held_back"),
    [
        (die, "ExporterAbsent", set()),
        (lose_redis, "RedisDown", set()),
        (fail_to_score, "RewardFailing", {"DeadLettersGrowing"}),
    ],
)
def test_a_fault_reaches_the_team_as_its_root_alert_alone(
    watched: Watched, strike: Callable[[Run], None], root: str, held_back: set[str]
) -> None:
    strike(watched.run)
    wait_for(lambda: root in watched.receiver.names())
    wait_for(lambda: held_back <= firing(watched.prometheus))
    time.sleep(4)  # another group_interval: what is not held back would come now
    assert watched.receiver.names() == {root}
    (alert,) = {json.dumps(alert["annotations"], sort_keys=True) for alert in watched.receiver.alerts}
    assert RUN in alert
    assert "error" not in alert
    assert all(alert["labels"]["run"] == RUN for alert in watched.receiver.alerts)


def firing(prometheus: Prometheus) -> set[str]:
    return {rule["name"] for rule in prometheus.rules() if rule.get("state") == "firing"}
