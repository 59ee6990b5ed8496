import math
import socket
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.observe.metric_table import METRICS, PREFIX, QUEUE_METRICS, REDIS_UP
from services.observe.metrics import QueueFigures, RunMetrics, StageFigures, serve

QUEUE = QueueFigures(
    stages={
        "score": StageFigures(entries=3, pending=1, oldest_age_s=2.5),
        "learn": StageFigures(entries=0, pending=0, oldest_age_s=0.0),
    },
    dispatched=40,
    consumed=32,
    evicted=2,
    dead=1,
    in_flight=5,
)


def scrape(metrics: RunMetrics) -> dict:
    registry = CollectorRegistry()
    registry.register(metrics)
    text = generate_latest(registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict, name: str, **labels: str) -> float:
    wanted = {"run": "numbers", **labels}
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == wanted
    ]
    return found


@pytest.fixture
def metrics(make_history) -> RunMetrics:
    metrics = RunMetrics("numbers", lambda: QUEUE)
    for record in make_history(3):
        metrics.observe(record)
    return metrics


def test_exactly_the_table_is_exposed_with_help_type_and_labels(metrics: RunMetrics) -> None:
    families = scrape(metrics)
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert metric.name.startswith(PREFIX)
        assert family.documentation == metric.help != ""
        assert family.type == metric.kind
        assert family.samples
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == {"run", *metric.labels}


def test_every_name_of_the_table_stands_once_and_a_counter_ends_in_total() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert all((metric.kind == "counter") == metric.name.endswith("_total") for metric in METRICS)


def test_the_queues_figures_are_read_at_each_scrape() -> None:
    readings = iter([QUEUE, QueueFigures(stages={}, dispatched=41, consumed=32, evicted=2, dead=1, in_flight=6)])
    metrics = RunMetrics("numbers", lambda: next(readings))
    first, second = scrape(metrics), scrape(metrics)
    assert value(first, "tafs_queue_entries", stage="score", state="ready") == 3
    assert value(first, "tafs_queue_oldest_entry_age_seconds", stage="score") == 2.5
    assert value(first, "tafs_groups_dispatched_total") == 40
    assert value(second, "tafs_groups_dispatched_total") == 41


def test_a_queue_that_cannot_be_read_is_redis_down_and_leaves_the_learners_figures(make_history, caplog) -> None:
    def fail() -> QueueFigures:
        raise ConnectionError("refused")

    metrics = RunMetrics("numbers", fail)
    metrics.observe(make_history(1)[0])
    families = scrape(metrics)
    scrape(metrics)
    assert value(families, "tafs_redis_up") == 0
    assert value(families, "tafs_updates_total") == 1
    assert not any(families[metric.name.removesuffix("_total")].samples for metric in QUEUE_METRICS)
    assert len([record for record in caplog.records if REDIS_UP.name in record.message]) == 1


def test_the_learners_figures_follow_the_records(metrics: RunMetrics, make_history) -> None:
    families, last = scrape(metrics), make_history(3)[-1]
    assert value(families, "tafs_updates_total") == 3
    assert value(families, "tafs_images_total") == 384
    assert value(families, "tafs_weights_version") == 3
    assert value(families, "tafs_last_update_timestamp_seconds") == last.unix_time
    assert value(families, "tafs_loss") == pytest.approx(last.figures.loss)
    assert value(families, "tafs_reward_mean", reward="judge", step="3") == pytest.approx(
        last.figures.rewards["judge"].mean[3]
    )
    waited = sum(record.phase_seconds["wait"] for record in make_history(3))
    assert value(families, "tafs_phase_seconds_total", phase="wait") == pytest.approx(waited)


def test_the_staleness_histogram_counts_every_group_once(metrics: RunMetrics, make_history) -> None:
    ages = [age for record in make_history(3) for age in record.staleness]
    families = scrape(metrics)
    assert value(families, "tafs_group_staleness_updates_count") == len(ages)
    assert value(families, "tafs_group_staleness_updates_sum") == sum(ages)
    for end in (0, 1, 2):
        expected = sum(age <= end for age in ages)
        assert value(families, "tafs_group_staleness_updates_bucket", le=f"{end}.0") == expected


def test_before_the_first_update_no_gauge_pretends_to_be_zero() -> None:
    families = scrape(RunMetrics("numbers", lambda: QUEUE))
    assert value(families, "tafs_updates_total") == 0
    assert not families["tafs_loss"].samples
    assert not families["tafs_reward_mean"].samples


def test_the_endpoint_answers_on_a_free_port_of_this_machine_until_it_is_closed(metrics: RunMetrics) -> None:
    with serve(metrics) as endpoint:
        assert endpoint.host == "127.0.0.1"
        assert endpoint.port > 0
        with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics", timeout=5) as answer:
            assert "# HELP tafs_loss " in answer.read().decode()
        port = endpoint.port
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass


def test_a_taken_port_is_a_clear_error(metrics: RunMetrics) -> None:
    with serve(metrics) as endpoint, pytest.raises(ValueError, match=f"{endpoint.port}: the port is taken"):
        serve(metrics, port=endpoint.port)


def test_an_unscored_step_is_nan_and_not_zero(make_history) -> None:
    record = make_history(1)[0]
    record.report["rewards"]["judge"]["mean"] = (float("nan"), 0.0, 0.0, 0.0)
    metrics = RunMetrics("numbers", lambda: QUEUE)
    metrics.observe(record)
    assert math.isnan(value(scrape(metrics), "tafs_reward_mean", reward="judge", step="0"))
