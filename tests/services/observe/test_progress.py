import io
import re

import msgspec
import pytest
from rich.console import Console

from services.observe.progress import RunView, sparkline
from services.observe.text import duration_text

QUEUE = {"to_score": 3, "to_learn": 2, "in_flight": 6}
WORKERS = {"rollout": 2, "reward": 1}


def terminal(width: int = 80) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=width, height=40, force_terminal=True, color_system=None), out


def last_frame(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text[text.rindex("╭") :])


@pytest.mark.parametrize("rewards", [("exact_match", "judge"), ("a_reward_with_a_very_long_name",), ()])
@pytest.mark.parametrize("num_steps", [1, 4, 9])
def test_the_live_view_fits_80_columns(make_history, rewards, num_steps) -> None:
    console, out = terminal()
    with RunView("numbers " * 20, 100_000, console=console) as view:
        for record in make_history(30, rewards=rewards, num_steps=num_steps):
            view.update(record, {f"a_long_stage_name_{n}": 12_345.678 for n in range(9)}, WORKERS)
    lines = [line.rstrip() for line in last_frame(out.getvalue()).splitlines()]
    assert max(map(len, lines)) <= 80


def test_the_live_view_shows_rewards_speed_queue_staleness_workers_and_time_left(make_history) -> None:
    console, out = terminal()
    with RunView("numbers", 60, console=console) as view:
        for record in make_history(30):
            view.update(record, QUEUE, WORKERS)
    frame = last_frame(out.getvalue())
    for words in (
        "update 30 / 60",
        "3 min 42 s left",
        "exact_match",
        "judge",
        "step 3",
        "17.3 images/s",
        "staleness",
    ):
        assert words in frame
    assert "…" not in frame
    assert "to score 3 · to learn 2 · in flight 6" in frame
    assert "rollout 2 · reward 1" in frame
    assert any(block in frame for block in "▅▆▇█")


def test_without_a_terminal_each_update_is_one_plain_line(make_history) -> None:
    out = io.StringIO()
    with RunView("numbers", 60, console=Console(file=out, width=80)) as view:
        for record in make_history(3):
            view.update(record, QUEUE, WORKERS)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert "\x1b" not in out.getvalue()
    assert lines[2].startswith("update 3/60  exact_match 0.")
    assert "17.3 images/s" in lines[2]
    assert lines[2].endswith(" left")


def test_a_resumed_run_knows_its_speed_at_its_first_update(make_history) -> None:
    out = io.StringIO()
    records = make_history(10)
    with RunView("numbers", 20, history=records[:9], console=Console(file=out, width=80)) as view:
        view.update(records[9])
    assert "17.3 images/s" in out.getvalue()
    assert out.getvalue().strip().endswith("1 min 14 s left")


def test_figures_that_are_not_there_are_dashes(make_history) -> None:
    record = make_history(1)[0]
    record.report["rewards"]["judge"]["mean"] = (float("nan"),) * 4
    out = io.StringIO()
    with RunView("numbers", 20, console=Console(file=out, width=80)) as view:
        view.update(msgspec.structs.replace(record, run_seconds=0.0, staleness=()))
    assert "– images/s  staleness –" in out.getvalue()
    assert "judge" not in out.getvalue()


def test_a_sparkline_spans_its_range_and_leaves_gaps() -> None:
    assert sparkline([0.0, float("nan"), 0.5, 1.0], 0.0, 1.0) == "▁ ▅█"
    assert sparkline([1.0, 1.0], 1.0, 1.0) == "▁▁"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (75, "1 min 15 s"), (3700, "1 h 01 min"), (90_000, "1 d 1 h"), (float("nan"), "–")],
)
def test_a_duration_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration_text(seconds) == words
