"""A real run under a real Prometheus with the shipped rules: every panel and every rule finds what it reads."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from ..services.observe.test_prometheus import expressions
from ..services.observe.watchers import (
    Prometheus,
    complaints,
    free_port,
    processes,
    scrape,
    wait_for,
    write_configuration,
)
from .conftest import DEADLINE_S, ROOT, command, environment

PROMETHEUS = shutil.which("prometheus")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(2 * DEADLINE_S),
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed (Debian: prometheus)"),
]
NAME = "watched"
WITH_EVERYTHING = (
    "learning.updates=500",
    "rewards=[{use: text_rendering}, {use: 'tests.e2e.held_out:brightness', name: light, weight: 0.1, "
    "gate: {reward: text_rendering, at_least: 0.1}}]",
    "evaluation.images=54",
    "evaluation.watch={every: 1, images: 16, panel: [{use: 'tests.e2e.held_out:darkness', name: dark}]}",
)
UPDATES_SEEN = 4
"""Updates before the questions are asked: rates want more than one sample."""


def test_every_panel_and_every_rule_finds_data_in_a_real_run_and_nothing_fires(tmp_path) -> None:
    write_configuration(tmp_path, tmp_path, free_port(), "http://127.0.0.1:9/")
    port = free_port()
    prometheus = Prometheus(port)
    server = (
        PROMETHEUS,
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/prometheus",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with processes(server), (tmp_path / "output").open("w") as output:
        run = subprocess.Popen(
            command(tmp_path, NAME, *WITH_EVERYTHING),
            cwd=ROOT,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(lambda: alive(run, tmp_path) and prometheus.ready(), DEADLINE_S)
            wait_for(
                lambda: alive(run, tmp_path) and prometheus.query("max(tafs_updates_total)") >= [float(UPDATES_SEEN)],
                DEADLINE_S,
            )
            wait_for(lambda: prometheus.query("run:tafs_phase_wait:ratio_rate15m") != [], DEADLINE_S)
            asked = [
                (title, expression.replace('run="numbers"', f'run="{NAME}"')) for title, expression in expressions()
            ]
            assert silent(asked, run, tmp_path, prometheus) == []
            rules = prometheus.rules()
            assert [rule["name"] for rule in rules if rule.get("lastError") or rule.get("state") == "firing"] == []
            for rule in rules:
                for selector in re.findall(r"(?:[a-z_]+:)?tafs_[\w:]+(?:\{[^}]*\})?|up\{[^}]*\}", rule["query"]):
                    name = re.sub(r"\{.*(state=\"failed\"|WeightsCorrupt).*\}", "", selector)  # no such thing happened
                    assert prometheus.query(name) != [], (rule["name"], selector)
            ray = f'ray_node_cpu_count{{job="ray",run="{NAME}"}}'
            wait_for(lambda: len(prometheus.query(ray)) == 1, DEADLINE_S, missing=lambda: ray)
            (target,) = json.loads((tmp_path / f".targets/{NAME}.json").read_text())
            assert complaints(scrape(*target["targets"])) == ""
        finally:
            os.killpg(run.pid, signal.SIGINT)
            code = run.wait(DEADLINE_S)
    assert code == 143, (tmp_path / "output").read_text()
    assert list(tmp_path.glob(".targets/**/*.json")) == [], "a run that ended is asked no more"


def silent(asked: list, run: subprocess.Popen, folder, prometheus: Prometheus) -> list:
    """What found nothing until the deadline: a worker counts when its first group is done, a rate wants two samples."""
    deadline = time.monotonic() + DEADLINE_S
    while asked := [entry for entry in asked if not prometheus.query(entry[1])]:
        if time.monotonic() > deadline:
            break
        assert alive(run, folder)
        time.sleep(0.5)
    return asked


def alive(run: subprocess.Popen, folder) -> bool:
    assert run.poll() is None, (folder / "output").read_text()
    return True
