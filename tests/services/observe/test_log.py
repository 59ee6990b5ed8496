import io
import json
import logging

from rich.console import Console

from services.observe.log import JsonHandler, JsonLines

from .test_trace import make_journey

KEYS = {"time", "level", "run", "role", "replica", "version", "gid", "update", "seconds", "message"}


def test_what_a_console_prints_becomes_one_object_per_line() -> None:
    stream = io.StringIO()
    console = Console(file=JsonLines(stream, "numbers"), width=10_000)
    console.print("run folder runs/numbers, " + "a long path " * 40)
    console.print("adapter a\nreport  b")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert all(line.keys() == KEYS for line in lines)
    assert [line["message"][:10] for line in lines] == ["run folder", "adapter a", "report  b"]
    assert {(line["run"], line["role"], line["gid"]) for line in lines} == {("numbers", "driver", None)}


def test_an_updates_groups_are_told_by_who_did_what_with_which_weights(make_history) -> None:
    stream = io.StringIO()
    record = make_history(1)[0]
    JsonLines(stream, "numbers").tell_update(record, 300, [make_journey(1e9, 3, "rollout-1")])
    *groups, update = [json.loads(line) for line in stream.getvalue().splitlines()]
    told = [(g["role"], g["replica"], g["gid"], g["version"], g["message"], g["time"] - 1e9) for g in groups]
    assert told == [
        ("rollout", "1", "3/0", 7, "group drawn", 3.0),
        ("reward", "0", "3/0", 7, "group scored", 4.0),
        ("learner", "0", "3/0", 9, "group learned", 7.0),
    ]
    assert update["message"].startswith("update 1 of 300: exact_match ")
    assert (update["role"], update["version"], update["gid"]) == ("learner", 1, None)


def test_pythons_log_records_are_lines_with_their_level() -> None:
    stream = io.StringIO()
    handler = JsonHandler(JsonLines(stream, "numbers"))
    handler.handle(
        logging.makeLogRecord({"msg": "the queue %s", "args": ("hid",), "levelno": 30, "levelname": "WARNING"})
    )
    line = json.loads(stream.getvalue())
    assert (line["level"], line["message"]) == ("warning", "the queue hid")
