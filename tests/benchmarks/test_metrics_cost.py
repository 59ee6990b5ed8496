"""What being watched costs a run, in CPU seconds per second.

    make bench-metrics

A real recorder on a real server, with the queue of a run on it. Counted are, in this process: answering a scrape; all
that the recorder does at an update, with history, TensorBoard and status; and taking in the workers' figures once a
second. The client of the scrapes is counted, too, although it would be Prometheus. In the server: what it does for a
scrape. The share is of a run that keeps one core busy; a run that keeps more of them busy pays the same for it.
"""

import time
import urllib.request
from collections.abc import Callable

import numpy as np
import pytest
import yaml
from rich.console import Console

from services.cli.run_file import load_run_file
from services.data.ledger import Ledger
from services.data.queue import Queue
from services.data.server import EmbeddedServer, connect, impatient
from services.fleet.planning.run_folder import owned
from services.fleet.run.recorder import SCRAPE_TIMEOUT_S, Recorder

from ..e2e.conftest import ROOT, RUN_FILE
from ..services.observe.conftest import make_record
from ..services.observe.figures import make_worker

pytestmark = [pytest.mark.slow, pytest.mark.integration]
TIMES = 200
UPDATE_S = 2.0
"""As often as the quickstart makes one on two cores, or a little oftener."""
LOOK_S = 1.0
PROMETHEUS = yaml.safe_load((ROOT / "deploy/observability/prometheus.yml").read_text())
SCRAPE_S = float(PROMETHEUS["global"]["scrape_interval"].removesuffix("s"))
FLEETS = {
    "quickstart": {"learner": 1, "rollout": 1, "reward": 1},
    "16 GPUs": {"learner": 4, "rollout": 12, "reward": 16},
}


@pytest.fixture
def recorder(tmp_path):
    config = load_run_file(ROOT / RUN_FILE, [f"runs={tmp_path}", "name=watched"])
    with owned(config, fresh=False) as folder, EmbeddedServer() as server:
        redis = connect(server.url)
        queue = Queue(redis, config.name)
        queue.begin(Ledger(groups_per_update=64, max_staleness=1, total_groups=6400))
        queue.admit(0)
        for owner in range(16):
            queue.claim("tickets", f"rollout-{owner}", 2, 0)
        scraped = Queue(impatient(redis, SCRAPE_TIMEOUT_S), config.name)
        with Recorder(config, folder, queue, scraped, Console(quiet=True)) as made:
            yield made, redis
        redis.close()


def cpu_s(what: Callable[[], object]) -> float:
    """CPU seconds of this process for one of TIMES calls."""
    began = time.process_time()
    for _ in range(TIMES):
        what()
    return (time.process_time() - began) / TIMES


@pytest.mark.parametrize("fleet", FLEETS)
def test_being_watched_costs_less_than_a_hundredth_of_one_core(fleet, recorder) -> None:
    watched, redis = recorder
    workers = [make_worker(role, place) for role, number in FLEETS[fleet].items() for place in range(number)]
    record = make_record(1, np.random.default_rng(0), ("exact_match", "judge"), 8)
    watched.show_workers(workers)
    watched.take(record)
    watched.checkpointed(0.1)
    metrics = watched.metrics_url
    series = sum(not line.startswith(b"#") for line in read(metrics).splitlines())

    def used() -> float:
        figures = redis.info("cpu")
        return float(figures["used_cpu_user"]) + float(figures["used_cpu_sys"])

    before = used()
    scrape = cpu_s(lambda: read(metrics))
    served = (used() - before) / TIMES
    look = cpu_s(lambda: watched.show_workers(workers))
    update = cpu_s(lambda: watched.take(record))
    share = (scrape + served) / SCRAPE_S + look / LOOK_S + update / UPDATE_S
    print(
        f"\n{fleet}: {series} series; scrape {1e3 * scrape:.2f} ms and {1e3 * served:.2f} ms in the server, "
        f"workers {1e3 * look:.2f} ms, update {1e3 * update:.2f} ms: {100 * share:.2f} % of one core"
    )
    assert share < 0.01


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()
