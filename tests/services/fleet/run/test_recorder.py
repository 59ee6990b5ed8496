"""What a run tells Prometheus from its start to its end, with a real server behind it."""

import os
import signal
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from services.cli.run_file import load_run_file
from services.data.ledger import Ledger
from services.data.queue import Queue
from services.data.server import EmbeddedServer, connect, impatient
from services.errors import StalledError
from services.fleet.planning.run_folder import owned
from services.fleet.run.recorder import SCRAPE_TIMEOUT_S, Recorder
from services.observe.events import read_events

from ...observe.conftest import make_record

QUICKSTART = Path(__file__).resolve().parents[4] / "deploy/configs/quickstart.yaml"
pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Watched:
    """A run's recorder and what is behind it."""

    recorder: Recorder
    queue: Queue
    server: EmbeddedServer
    target: Path  # its file for Prometheus
    folder: Path

    def samples(self) -> dict:
        with urllib.request.urlopen(self.recorder.metrics_url, timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        return {
            (sample.name, *(value for label, value in sample.labels.items() if label != "run")): sample.value
            for family in families
            for sample in family.samples
        }


@pytest.fixture
def watched(tmp_path):
    config = load_run_file(QUICKSTART, [f"runs={tmp_path}", "name=watched"])
    with owned(config, fresh=False) as folder, EmbeddedServer() as server:
        redis = connect(server.url)
        queue = Queue(redis, config.name)
        scraped = Queue(impatient(redis, SCRAPE_TIMEOUT_S), config.name)
        recorder = Recorder(config, folder, queue, scraped, Console(quiet=True))
        yield Watched(recorder, queue, server, tmp_path / ".targets/watched.json", folder)
        redis.close()


def test_before_the_run_has_begun_its_server_is_up_and_it_is_starting(watched) -> None:
    with watched.recorder:
        samples = watched.samples()
    assert samples["tafs_redis_up",] == 1
    assert samples["tafs_run_state", "starting"] == 1
    assert not any(name.startswith("tafs_groups") for name, *_ in samples)


def test_what_happens_in_the_queue_is_seen_at_the_next_scrape(watched) -> None:
    queue = watched.queue
    with watched.recorder:
        queue.begin(Ledger(groups_per_update=2, max_staleness=0, total_groups=8))
        queue.admit(0)
        first, second = queue.claim("tickets", "rollout-0", 2, 0)
        queue.fail("tickets", first, 0, "out of memory")
        queue.evict(second, 1, "worker lost", stage="tickets")
        watched.recorder.enter("training")
        watched.recorder.checkpointed(1.25)
        samples = watched.samples()
    assert samples["tafs_groups_dispatched_total",] == 2
    assert samples["tafs_groups_failed_total", "tickets"] == 1
    assert samples["tafs_groups_failed_total", "groups"] == 0
    assert samples["tafs_groups_evicted_total", "worker lost"] == 1
    assert samples["tafs_run_state", "training"] == 1
    assert samples["tafs_checkpoint_duration_seconds",] == 1.25
    assert samples["tafs_checkpoint_last_success_timestamp_seconds",] == pytest.approx(time.time(), abs=30)


def test_a_server_that_hangs_is_an_answer_within_a_scrapes_patience(watched) -> None:
    with watched.recorder:
        assert watched.samples()["tafs_redis_up",] == 1
        os.kill(watched.server.pid, signal.SIGSTOP)
        try:
            asked = time.monotonic()
            assert watched.samples()["tafs_redis_up",] == 0
            assert time.monotonic() - asked < SCRAPE_TIMEOUT_S + 1
        finally:
            os.kill(watched.server.pid, signal.SIGCONT)


def test_a_run_that_ends_well_takes_its_target_along(watched) -> None:
    with watched.recorder:
        assert watched.target.exists()
    assert not watched.target.exists()


def test_a_run_that_somebody_interrupts_takes_its_target_and_that_of_its_ray_along(watched) -> None:
    ray = watched.target.with_name("ray") / watched.target.name
    with suppress(KeyboardInterrupt), watched.recorder:
        watched.recorder.watch_ray(["10.0.0.2:4711"])
        assert ray.exists()
        raise KeyboardInterrupt
    assert not watched.target.exists()
    assert not ray.exists()


def test_a_run_that_ends_with_an_error_leaves_its_target_so_that_it_is_missed(watched) -> None:
    with suppress(StalledError), watched.recorder:
        raise StalledError("nothing moved")
    assert watched.target.exists()


def test_what_came_to_nothing_between_two_updates_is_told_in_the_journal(watched) -> None:
    queue, rng = watched.queue, np.random.default_rng(0)
    records = [make_record(update, rng, ("ocr",), 4) for update in (1, 2, 3)]
    with watched.recorder:
        queue.begin(Ledger(groups_per_update=2, max_staleness=0, total_groups=8, max_attempts=1))
        queue.admit(0)
        watched.recorder.take(records[0])
        first, second = queue.claim("tickets", "rollout-0", 2, 0)
        queue.fail("tickets", first, 0, "out of memory")
        queue.evict(second, 1, "worker lost", stage="tickets")
        watched.recorder.take(records[1])
        watched.recorder.take(msgspec.structs.replace(records[2], lineage=1))
    told = [(event.kind, event.update, event.text) for event in read_events(watched.folder)]
    assert told == [
        ("start", 0, "The run starts."),
        ("failed", 2, "1 failed attempt at tickets."),
        ("evicted", 2, "1 group drawn anew: worker lost."),
        ("dead", 2, "1 group given up after too many failed attempts."),
        ("lineage", 2, "Update 3 is the first of lineage 1."),
        ("end", 3, "The run ends."),
    ]


def test_a_run_that_fails_says_of_what_in_its_journal(watched) -> None:
    with suppress(StalledError), watched.recorder:
        raise StalledError("nothing moved")
    assert read_events(watched.folder)[-1].text == "The run ends: StalledError: nothing moved"
