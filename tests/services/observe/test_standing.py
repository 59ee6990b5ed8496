"""Where a run stands, in tables: what is known, and rates once there are two looks."""

import io

import msgspec
import pytest
from rich.console import Console

from services.data.claims import Held
from services.observe.standing import Standing, tables
from services.observe.workers import WorkersFile

from .figures import make_worker

STAGE = {"entries": 3, "pending": 1, "ready": 2, "oldest_age_s": 7.0}
QUEUE = {
    "stages": {"tickets": STAGE},
    **dict.fromkeys(("dispatched", "consumed", "evicted", "failed", "dead", "in_flight"), 10),
}


def standing(make_history, **different) -> Standing:
    record = msgspec.to_builtins(make_history(3)[-1])
    fields = {
        "unix_time": record["unix_time"] + 5.0,
        "run": "numbers",
        "status": {"record": record, "planned_updates": 10, "metrics": "http://here/metrics"},
        "queue": QUEUE,
        "live": True,
        "workers": WorkersFile(
            unix_time=record["unix_time"] + 5.0,
            workers=(make_worker("reward", 0), make_worker("rollout", 10, groups=20), make_worker("rollout", 9)),
        ),
        "held": {"rollout-9": Held(claims=2, lease_age_s=1.25)},
    }
    return Standing(**{**fields, **different})


def shown(now, past=None, width=200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(tables(now, past, width))
    return console.file.getvalue()


def test_progress_staleness_queue_and_workers_are_shown_by_role_and_number(make_history) -> None:
    text = shown(standing(make_history))
    for part in ("numbers: update 3 of 10", "5 s ago", "staleness", "2 ready, 1 in work, oldest 7 s", "http://here"):
        assert part in text, text
    assert "last end" not in text, "nobody has died"
    assert text.index("rollout-9") < text.index("rollout-10") < text.index("reward-0")
    (line,) = (line for line in text.splitlines() if "rollout-9" in line)
    assert "1.2 s" in line, "the age of its lease"
    assert "a minute" in text


def test_rates_need_two_looks(make_history) -> None:
    past = standing(make_history)
    assert past.workers is not None
    later = past.unix_time + 30.0
    workers = tuple(msgspec.structs.replace(one, groups=one.groups + 4) for one in past.workers.workers)
    now = standing(
        make_history,
        unix_time=later,
        queue={**QUEUE, "consumed": 16},
        workers=WorkersFile(unix_time=later, workers=workers),
    )
    text = shown(now, past)
    assert "16, 12.0 a minute" in text, text
    assert text.count("8.0") >= 3, text
    assert "16, " not in shown(now)
    assert "a minute" not in shown(now, standing(make_history, live=False)).split("workers,")[0]


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_leaves_out_what_is_least(make_history, width) -> None:
    text = shown(standing(make_history), width=width)
    assert "lease" not in text
    assert "rollout-10" in text, "who it is about is never cut off"
    assert max(map(len, text.splitlines())) <= width


def test_a_run_without_an_update_shows_its_workers(make_history) -> None:
    text = shown(standing(make_history, status=None, queue=None, live=False))
    assert "numbers: no update yet" in text
    assert "rollout-9" in text
