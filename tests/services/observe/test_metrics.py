import json
import math
import shutil
import socket
import subprocess
import urllib.request
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.observe.endpoint import RAY_TARGETS, announce, serve
from services.observe.metric_cells import QueueFigures, Saved
from services.observe.metric_table import (
    MAX_REASONS,
    METRICS,
    OTHER_REASON,
    PREFIX,
    QUEUE_METRICS,
    REDIS_UP,
    RUN_STATES,
    UPDATE_METRICS,
)
from services.observe.metrics import RunMetrics

from .figures import FACTS, JOURNEY, LOOK, QUEUE, VERDICT, WORKERS, make_worker


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
    metrics = RunMetrics("numbers", FACTS, lambda: QUEUE)
    for record in make_history(3):
        metrics.observe(record, [JOURNEY, JOURNEY])
    metrics.look(LOOK, VERDICT)
    metrics.save(Saved(unix_time=1_760_000_040.0, seconds=1.5))
    metrics.see(WORKERS)
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
    readings = iter([QUEUE, replace(QUEUE, dispatched=41)])
    metrics = RunMetrics("numbers", FACTS, lambda: next(readings))
    first, second = scrape(metrics), scrape(metrics)
    assert value(first, "tafs_queue_entries", stage="groups", state="ready") == 3
    assert value(first, "tafs_queue_oldest_entry_age_seconds", stage="groups") == 2.5
    assert value(first, "tafs_groups_dispatched_total") == 40
    assert value(second, "tafs_groups_dispatched_total") == 41


def test_a_queue_that_cannot_be_read_is_redis_down_and_leaves_the_learners_figures(make_history, caplog) -> None:
    def fail() -> QueueFigures:
        raise ConnectionError("refused")

    metrics = RunMetrics("numbers", FACTS, fail)
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
    assert value(families, "tafs_reward_value", reward="judge", step="3", stat="mean") == pytest.approx(
        last.figures.rewards["judge"].mean[3]
    )
    waited = sum(record.phase_seconds["wait"] for record in make_history(3))
    assert value(families, "tafs_phase_seconds_total", phase="wait") == pytest.approx(waited)


def test_the_last_updates_figures_are_shown_by_step_and_statistic(metrics: RunMetrics, make_history) -> None:
    families, figures = scrape(metrics), make_history(3)[-1].figures
    for step in (0, 2):
        for name in ("advantage_std", "drift", "log_ratio_max"):
            assert value(families, f"tafs_{name}", step=str(step)) == pytest.approx(getattr(figures, name)[step])
    judge = figures.rewards["judge"]
    assert value(families, "tafs_reward_value", reward="judge", step="1", stat="spread") == judge.spread[1]
    zero = value(families, "tafs_reward_zero_spread_ratio", reward="judge", step="1")
    assert zero == pytest.approx(judge.zero_spread[1])
    assert value(families, "tafs_reward_weight", reward="judge") == judge.weight
    assert value(families, "tafs_reward_gate_passed_ratio", reward="judge", step="1") == judge.passed[1]
    assert value(families, "tafs_skipped_pairs_ratio") == figures.skipped_fraction
    assert value(families, "tafs_update") == 3


def test_the_held_out_panel_is_shown_beside_what_is_trained(metrics: RunMetrics) -> None:
    families = scrape(metrics)
    assert value(families, "tafs_look_update") == 2
    assert value(families, "tafs_look_score", reward="ocr", kind="trained") == 0.5
    assert value(families, "tafs_look_score", reward="reader", kind="panel") == 0.5
    assert value(families, "tafs_look_statistic", statistic="diversity") == 0.3
    assert value(families, "tafs_look_fall", reward="reader") == 0.0
    assert value(families, "tafs_look_hacked", reward="reader") == 0.0


def test_an_update_lasts_as_long_as_its_phases_and_calls_add_up(metrics: RunMetrics, make_history) -> None:
    families, history = scrape(metrics), make_history(3)
    last = sum(history[-1].phase_seconds.values())
    assert value(families, "tafs_update_duration_seconds") == pytest.approx(last)
    drawn = sum(record.call_seconds["sample"] for record in history)
    assert value(families, "tafs_call_seconds_total", call="sample") == pytest.approx(drawn)


def test_where_the_time_of_the_groups_went_is_counted_by_stretch(metrics: RunMetrics) -> None:
    families = scrape(metrics)
    assert value(families, "tafs_group_seconds_total", stretch="ticket waits") == 3.0
    assert value(families, "tafs_group_seconds_total", stretch="drawing") == 12.0


def test_a_checkpoint_has_its_time_and_its_seconds_which_its_record_counts_as_a_phase(metrics: RunMetrics) -> None:
    before = value(scrape(metrics), "tafs_phase_seconds_total", phase="checkpoint")
    metrics.look(LOOK, VERDICT)
    metrics.save(Saved(unix_time=1_760_000_100.0, seconds=2.5))
    families = scrape(metrics)
    assert value(families, "tafs_checkpoint_last_success_timestamp_seconds") == 1_760_000_100.0
    assert value(families, "tafs_checkpoint_duration_seconds") == 2.5
    assert value(families, "tafs_phase_seconds_total", phase="checkpoint") == before


def test_an_update_that_was_not_finite_is_counted(make_history) -> None:
    metrics = RunMetrics("numbers", FACTS, lambda: QUEUE)
    for record in make_history(17):  # the seventeenth met a gradient that was not finite
        metrics.observe(record)
    assert value(scrape(metrics), "tafs_nonfinite_updates_total") == 1


def test_the_guards_last_measurement_stays_while_it_is_not_asked(make_history) -> None:
    first, second = make_history(2)
    first.report["guard_drift"] = 3e-6
    metrics = RunMetrics("numbers", FACTS, lambda: QUEUE)
    metrics.observe(first)
    metrics.observe(second)
    assert value(scrape(metrics), "tafs_guard_drift") == 3e-6


def test_every_worker_is_told_of_by_its_place_and_only_in_the_state_that_it_is_in(metrics: RunMetrics) -> None:
    families = scrape(metrics)
    second = {"role": "rollout", "replica": "1"}
    assert value(families, "tafs_worker_state", state="suspect", **second) == 1
    assert len(families["tafs_worker_state"].samples) == len(WORKERS)
    assert value(families, "tafs_worker_deaths_total", **second) == 1
    assert value(families, "tafs_worker_busy_seconds_total", **second) == 8
    assert value(families, "tafs_worker_idle_seconds_total", **second) == 2
    assert value(families, "tafs_worker_groups_total", **second) == 5
    assert value(families, "tafs_worker_images_total", **second) == 80
    assert value(families, "tafs_worker_weights_version", **second) == 2
    assert {s.labels["role"] for s in families["tafs_worker_weights_version"].samples} == {"learner", "rollout"}
    assert value(families, "tafs_max_staleness_updates") == 1


def test_every_rewards_calls_are_counted_over_all_workers(metrics: RunMetrics) -> None:
    families = scrape(metrics)
    names = (
        "calls_total", "call_failures_total", "images_total", "call_seconds_total", "call_retries_total",
        "breakers_open",
    )  # fmt: skip
    found = {
        reward: tuple(value(families, f"tafs_reward_{name}", reward=reward) for name in names)
        for reward in ("ocr", "judge")
    }
    assert found == {"ocr": (5, 0, 160, 0.75, 0, 0), "judge": (4, 1, 24, 6, 9, 1)}


def test_a_heartbeats_age_goes_on_while_nobody_looks(metrics: RunMetrics) -> None:
    first = value(scrape(metrics), "tafs_worker_heartbeat_age_seconds", role="learner", replica="0")
    second = value(scrape(metrics), "tafs_worker_heartbeat_age_seconds", role="learner", replica="0")
    assert second > first >= 0.4


def test_one_version_with_two_contents_is_a_conflict_and_two_versions_are_none(metrics: RunMetrics) -> None:
    assert value(scrape(metrics), "tafs_weights_digest_conflicts") == 0
    metrics.see([*WORKERS, make_worker("rollout", 2, digest="cc")])
    assert value(scrape(metrics), "tafs_weights_digest_conflicts") == 1


def test_a_run_is_in_one_state_and_says_what_it_is(metrics: RunMetrics) -> None:
    metrics.enter("training")
    families = scrape(metrics)
    states = {state: value(families, "tafs_run_state", state=state) for state in RUN_STATES}
    assert states == {state: float(state == "training") for state in RUN_STATES}
    about = {"commit": "abc1234", "model": "model", "advantage": "control_variate", "max_staleness": "1"}
    about["began"] = "2025-10-09T08:36:40Z"
    assert value(families, "tafs_run_info", **about) == 1
    assert value(families, "tafs_planned_updates") == 300


def test_before_the_run_has_a_queue_the_server_is_up_and_no_group_is_told_of() -> None:
    families = scrape(RunMetrics("numbers", FACTS, lambda: None))
    assert value(families, "tafs_redis_up") == 1
    assert not any(families[metric.name.removesuffix("_total")].samples for metric in QUEUE_METRICS)


def test_reasons_of_eviction_keep_their_series_and_the_surplus_is_counted_together() -> None:
    first = {f"reason {number}": 1 for number in range(MAX_REASONS)}
    readings = iter([replace(QUEUE, evictions=first), replace(QUEUE, evictions={"a new one": 7, **first})])
    metrics = RunMetrics("numbers", FACTS, lambda: next(readings))
    before, after = scrape(metrics), scrape(metrics)
    for reason in first:
        assert value(before, "tafs_groups_evicted_total", reason=reason) == 1
        assert value(after, "tafs_groups_evicted_total", reason=reason) == 1
    assert value(before, "tafs_groups_evicted_total", reason=OTHER_REASON) == 0
    assert value(after, "tafs_groups_evicted_total", reason=OTHER_REASON) == 7


def test_the_number_of_series_depends_on_rewards_and_steps_alone(make_history) -> None:
    def series(updates: int) -> int:
        fates = {f"reason {number}": 1 for number in range(updates)}
        metrics = RunMetrics("numbers", FACTS, lambda: replace(QUEUE, evictions=fates, dispatched=updates))
        for record in make_history(updates, num_steps=8):
            metrics.observe(record)
        metrics.save(Saved(unix_time=1.0, seconds=1.0))
        return sum(len(family.samples) for family in scrape(metrics).values())

    assert series(20) == series(120) < 250
    forbidden = {"gid", "group", "ordinal", "prompt", "pid", "version"}
    assert not forbidden & {label for metric in METRICS for label in metric.labels}


def test_the_run_is_announced_to_prometheus_in_a_file(tmp_path) -> None:
    file = announce(tmp_path, "numbers", "127.0.0.1:4711")
    assert file == tmp_path / ".targets" / "numbers.json"
    assert json.loads(file.read_text()) == [{"targets": ["127.0.0.1:4711"], "labels": {"run": "numbers"}}]
    ray = announce(tmp_path, "numbers", "10.0.0.2:4712", "10.0.0.3:4712", targets=RAY_TARGETS)
    assert ray == tmp_path / ".targets" / "ray" / "numbers.json"
    assert json.loads(ray.read_text())[0]["targets"] == ["10.0.0.2:4712", "10.0.0.3:4712"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_finds_nothing_to_say_about_the_metrics(metrics: RunMetrics) -> None:
    registry = CollectorRegistry()
    registry.register(metrics)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(registry), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_the_staleness_histogram_counts_every_group_once(metrics: RunMetrics, make_history) -> None:
    ages = [age for record in make_history(3) for age in record.staleness]
    families = scrape(metrics)
    assert value(families, "tafs_group_staleness_updates_count") == len(ages)
    assert value(families, "tafs_group_staleness_updates_sum") == sum(ages)
    for end in (0, 1, 2):
        expected = sum(age <= end for age in ages)
        assert value(families, "tafs_group_staleness_updates_bucket", le=f"{end}.0") == expected


def test_before_the_first_update_no_gauge_pretends_to_be_zero() -> None:
    families = scrape(RunMetrics("numbers", FACTS, lambda: QUEUE))
    assert value(families, "tafs_updates_total") == 0
    assert not any(families[metric.name].samples for metric in UPDATE_METRICS)
    assert not families["tafs_checkpoint_duration_seconds"].samples


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
    metrics = RunMetrics("numbers", FACTS, lambda: QUEUE)
    metrics.observe(record)
    assert math.isnan(value(scrape(metrics), "tafs_reward_value", reward="judge", step="0", stat="mean"))
