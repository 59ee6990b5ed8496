import json
import math
from itertools import pairwise

import msgspec
import pytest

from services.cli.status import write_trace
from services.errors import ConfigError
from services.observe.history import HistoryWriter
from services.observe.trace import PHASES, UPDATES, chrome_trace


@pytest.fixture
def records(make_history):
    return make_history(6)


def events(records) -> list[dict]:
    return json.loads(chrome_trace("numbers", records))["traceEvents"]


def spans(records, track: int) -> list[dict]:
    return [event for event in events(records) if event["ph"] == "X" and event["tid"] == track]


def test_every_update_is_a_span_that_ends_when_the_update_ended(records) -> None:
    found = spans(records, UPDATES)
    assert [span["name"] for span in found] == [f"update {record.update}" for record in records]
    ends = [span["ts"] + span["dur"] for span in found]
    for (before, after), (first, second) in zip(pairwise(records), pairwise(ends), strict=True):
        assert second - first == pytest.approx(1e6 * (after.unix_time - before.unix_time), rel=1e-6)


def test_an_updates_phases_fill_its_span_in_their_order(records) -> None:
    phases = iter(spans(records, PHASES))
    for span, record in zip(spans(records, UPDATES), records, strict=True):
        inside = [next(phases) for _ in record.phase_seconds]
        assert [phase["name"] for phase in inside] == list(record.phase_seconds)
        assert inside[0]["ts"] == pytest.approx(span["ts"])
        for before, after in pairwise(inside):
            assert after["ts"] == pytest.approx(before["ts"] + before["dur"])
        assert inside[-1]["ts"] + inside[-1]["dur"] == pytest.approx(span["ts"] + span["dur"])


def test_the_trace_begins_at_zero_and_names_run_and_tracks(records) -> None:
    assert min(event["ts"] for event in events(records) if "ts" in event) == 0
    named = {event["args"]["name"] for event in events(records) if event["ph"] == "M"}
    assert named == {"numbers", "updates", "phases"}


def test_rewards_are_counters_and_a_step_that_was_not_scored_is_left_out(records) -> None:
    report = {**records[0].report, "rewards": {"ocr": {"mean": (math.nan, 0.5), "spread": (), "zero_spread": ()}}}
    [counter] = [e for e in events([msgspec.structs.replace(records[0], report=report)]) if e["name"] == "reward ocr"]
    assert counter["args"] == {"step 1": 0.5}


def test_a_history_without_updates_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one update"):
        chrome_trace("numbers", ())


def test_the_command_writes_the_trace_of_a_run_folder(records, tmp_path) -> None:
    with HistoryWriter(tmp_path / "history.jsonl") as history:
        for record in records:
            history.append(record)
    path = write_trace(tmp_path, None)
    assert path == tmp_path / "trace.json"
    assert len(json.loads(path.read_text())["traceEvents"]) == len(events(records))


def test_a_folder_without_updates_is_a_mistake_of_the_users(tmp_path) -> None:
    with pytest.raises(ConfigError, match="found no update in"):
        write_trace(tmp_path, None)
