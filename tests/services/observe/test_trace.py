import json
import math
from itertools import pairwise

import msgspec
import pytest

from services.cli.trace import group_lines, write_trace
from services.errors import ConfigError
from services.observe.events import Event as Told
from services.observe.history import HistoryWriter
from services.observe.journeys import Journey, Stage, append_journeys
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


def test_every_worker_has_a_track_with_its_groups_and_the_journal_one_with_its_events(records) -> None:
    start = records[0].unix_time
    journeys = [make_journey(start, ordinal, f"rollout-{ordinal % 2}") for ordinal in range(4)]
    told = [Told(unix_time=start + 1.0, kind="worker", text="died", slot="rollout-1")]
    found = json.loads(chrome_trace("numbers", records, journeys, told))["traceEvents"]
    tracks = {event["args"]["name"]: event["tid"] for event in found if event["name"] == "thread_name"}
    assert list(tracks) == ["updates", "phases", "journal", "reward-0", "rollout-0", "rollout-1"]
    names = {slot: [e["name"] for e in found if e["ph"] == "X" and e["tid"] == tid] for slot, tid in tracks.items()}
    assert names["rollout-1"] == ["drawing 1/0", "drawing 3/0"]
    assert names["reward-0"] == [f"scoring {ordinal}/0" for ordinal in range(4)]
    assert [event["name"] for event in found if event["ph"] == "i"] == ["rollout-1: died"]
    assert min(event["ts"] for event in found if "ts" in event) == 0
    assert len(set(tracks.values())) == len(tracks)


def test_a_groups_way_is_told_stage_by_stage_under_its_number_or_name(tmp_path) -> None:
    append_journeys(tmp_path, [make_journey(1e9, ordinal, "rollout-0") for ordinal in (3, 4, 33)])
    lines = list(group_lines(tmp_path, "3"))
    assert lines == list(group_lines(tmp_path, "3/0"))
    assert lines[0] == "group 3/0, prompt p3: drawn with version 7, ocr 0.5"
    assert [line[33:53].strip() for line in lines[1:-1]] == [stage.name for stage in WAY]
    assert "rollout-0" in lines[2]
    assert lines[-1].strip() == "learned from in update 2 of lineage 0, published as 9"
    with pytest.raises(ConfigError, match="found no 5 in"):
        list(group_lines(tmp_path, "5"))


WAY = (
    Stage(name="ticket waits", slot="", began=0.0, ended=1.0),
    Stage(name="drawing", slot="rollout", began=1.0, ended=3.0),
    Stage(name="group waits", slot="", began=3.0, ended=3.5),
    Stage(name="scoring", slot="reward-0", began=3.5, ended=4.0),
    Stage(name="scored group waits", slot="", began=4.0, ended=5.0),
    Stage(name="learning", slot="learner-0", began=5.0, ended=7.0),
)


def make_journey(start: float, ordinal: int, rollout: str) -> Journey:
    stages = tuple(
        Stage(
            name=stage.name,
            slot=rollout if stage.slot == "rollout" else stage.slot,
            began=start + stage.began,
            ended=start + stage.ended,
        )
        for stage in WAY
    )
    rewards = {"ocr": 0.5}
    return Journey(
        gid=f"{ordinal}/0",
        prompt=f"p{ordinal}",
        weights=7,
        update=2,
        version=9,
        lineage=0,
        rewards=rewards,
        stages=stages,
    )
