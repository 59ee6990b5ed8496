"""A run that never happened under real eyes: its exporter, Prometheus, Alertmanager and the receiver of its alerts."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import yaml

from rewards.tally import Tally
from services.observe.endpoint import announce, serve
from services.observe.history import UpdateRecord
from services.observe.metric_cells import QueueFigures, Saved
from services.observe.metrics import RunMetrics
from services.observe.workers import WorkerFigures

from .figures import FACTS, JOURNEY, LOOK, QUEUE, VERDICT, WORKERS

FOLDER = Path(__file__).resolve().parents[3] / "deploy/observability"
PROMETHEUS = shutil.which("prometheus")
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
RUN = "numbers"
HASTE = 20
"""Alerts wait for so many times less than they should."""
UPDATE_S = 0.25


class Run:
    """A run's exporter, fed with an update every quarter of a second; all that it tells can be changed."""

    def __init__(self, runs: Path, records: Sequence[UpdateRecord], name: str = RUN) -> None:
        self.queue = QUEUE
        self.redis_lives = True
        self.saved: Saved | None = None  # None: a moment ago
        self.change_record: Callable[[UpdateRecord], UpdateRecord] = lambda record: record
        self.change_worker: Callable[[WorkerFigures], WorkerFigures] = lambda worker: worker
        self._records = records
        self.metrics = RunMetrics(name, FACTS, self._read)
        self.metrics.enter("training")
        self.metrics.look(LOOK, VERDICT)
        self.endpoint = serve(self.metrics)
        announce(runs, name, self.endpoint.address)
        self._ended = threading.Event()
        self._feeder = threading.Thread(target=self._feed)
        self._feeder.start()

    def _read(self) -> QueueFigures:
        if not self.redis_lives:
            raise ConnectionError("refused")
        return self.queue

    def _feed(self) -> None:
        for record in self._records:
            fresh = msgspec.structs.replace(record, unix_time=time.time())
            self.metrics.observe(self.change_record(fresh), [JOURNEY])
            self.metrics.see([self.change_worker(grown(worker, record.update)) for worker in WORKERS])
            self.metrics.save(self.saved or Saved(unix_time=time.time(), seconds=0.1))
            if self._ended.wait(UPDATE_S):
                return

    def die(self) -> None:
        """End without taking the target file along; again is fine."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._feeder.join()
        self.endpoint.close()


def grown(worker: WorkerFigures, update: int) -> WorkerFigures:
    """The worker after that many updates."""
    version = update if worker.version else 0
    return msgspec.structs.replace(
        worker,
        groups=worker.groups + update,
        images=80 * update,
        busy_s=update / 5,
        idle_s=update / 20,
        version=version,
        digest="aa",
        deaths=1,
        rewards={
            name: tally + Tally(calls=2 * update, images=80 * update, seconds=0.1 * update)
            for name, tally in worker.rewards.items()
        },
    )


class Receiver:
    """Where Alertmanager sends alerts to."""

    def __init__(self) -> None:
        self.alerts: list[dict] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.alerts += json.loads(body)["alerts"]
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def names(self) -> dict[str, set[str]]:
        """The alerts that came, by run."""
        found: dict[str, set[str]] = {}
        for alert in list(self.alerts):
            found.setdefault(alert["labels"]["run"], set()).add(alert["labels"]["alertname"])
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Prometheus:
    """Prometheus' HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        try:
            return self._get("/-/ready") != b""
        except OSError:
            return False

    def query(self, expression: str) -> list[float]:
        """The values of an instant query, NaN left out."""
        query = urllib.parse.urlencode({"query": expression})
        found = json.loads(self._get(f"/api/v1/query?{query}"))["data"]["result"]
        return [float(series["value"][1]) for series in found if series["value"][1] != "NaN"]

    def rules(self) -> list[dict]:
        groups = json.loads(self._get("/api/v1/rules"))["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> set[tuple[str, str]]:
        """The (run, alert) that fire now, held back or not."""
        alerts = json.loads(self._get("/api/v1/alerts"))["data"]["alerts"]
        return {(a["labels"]["run"], a["labels"]["alertname"]) for a in alerts if a["state"] == "firing"}

    def fired(self, state: str = "firing", within: str = "1h") -> set[str]:
        """The alerts that were in that state at any time."""
        query = urllib.parse.urlencode({"query": f'max_over_time(ALERTS{{alertstate="{state}"}}[{within}])'})
        found = json.loads(self._get(f"/api/v1/query?{query}"))["data"]["result"]
        return {series["metric"]["alertname"] for series in found}

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self._url + path, timeout=5) as answer:
            return answer.read()


def complaints(scraped: bytes) -> str:
    """What promtool, Prometheus' own linter, finds wrong in what a scrape of an exporter gave."""
    done = subprocess.run(("promtool", "check", "metrics"), input=scraped, capture_output=True, check=False)
    assert (done.returncode == 0) == (done.stdout + done.stderr == b""), done
    return (done.stdout + done.stderr).decode()


def scrape(address: str) -> bytes:
    """What the exporter at `host:port` tells whoever asks for plain text."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return answer.read()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def shorter(duration: str) -> str:
    """A shorter duration, in milliseconds."""
    number, unit = re.fullmatch(r"(\d+)(s|m|h)", duration).groups()
    return f"{int(number) * {'s': 1000, 'm': 60_000, 'h': 3_600_000}[unit] // HASTE}ms"


def write_configuration(folder: Path, runs: Path, alertmanager: int, receiver: str, *, hasty: bool = True) -> None:
    """The shipped configuration with its own ports and the receiver; hasty: everything waits less than it should."""
    prometheus = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    if hasty:
        prometheus["global"] = {"scrape_interval": "1s", "scrape_timeout": "900ms", "evaluation_interval": "1s"}
    prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    for job, name in zip(prometheus["scrape_configs"], ("*.json", "ray/*.json"), strict=True):
        assert job["file_sd_configs"][0]["files"][0] == f"../../runs/.targets/{name}"
        job["file_sd_configs"][0]["files"] = [f"{runs}/.targets/{name}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(prometheus))
    (folder / "rules").mkdir()
    for file in (FOLDER / "rules").glob("*.yml"):
        rules = yaml.safe_load(file.read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"] if "for" in rule):
            rule["for"] = shorter(rule["for"]) if hasty else rule["for"]
        (folder / "rules" / file.name).write_text(yaml.safe_dump(rules))
    manager = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    if hasty:
        manager["route"] |= {"group_wait": "3s", "group_interval": "3s"}
    manager["receivers"][0]["webhook_configs"] = [{"url": receiver, "send_resolved": False}]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(manager))


@contextmanager
def processes(*commands: Sequence[str | Path]) -> Iterator[None]:
    """Commands that run for the time of the context."""
    started = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def programs(folder: Path, alertmanager: int, prometheus: int) -> AbstractContextManager[None]:
    """Prometheus and Alertmanager on those ports, with the configuration in the folder, for the time of the context."""
    return processes(
        (
            ALERTMANAGER,
            f"--config.file={folder}/alertmanager.yml",
            f"--storage.path={folder}/alertmanager",
            f"--web.listen-address=127.0.0.1:{alertmanager}",
            "--cluster.listen-address=",
        ),
        (
            PROMETHEUS,
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/prometheus",
            f"--web.listen-address=127.0.0.1:{prometheus}",
        ),
    )


def wait_for(
    what: Callable[[], bool], timeout_s: float = 120.0, missing: Callable[[], object] = lambda: "what was waited for"
) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, f"waited in vain for {missing()}"
        time.sleep(0.2)
