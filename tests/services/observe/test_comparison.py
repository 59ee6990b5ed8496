import msgspec
import pytest

from services.observe.comparison import differences, render_comparison
from services.observe.pictures import Picture, spread
from services.observe.report import RunContents
from services.observe.summary import build_summary

from .test_report import check

PNG = b"\x89PNG"
PARTS = {"results", "rewards", "learning", "system", "pictures", "configuration", "provenance"}


@pytest.fixture
def runs(make_history, evaluations) -> dict[str, RunContents]:
    records = make_history(30)
    return {
        "low <rate>": RunContents(
            name="low",
            records=records,
            summary=build_summary(records, evaluations, wall_seconds=1.0, slots=1),
            config="learning: {rate: 0.0001, updates: 30}\nrewards:\n- {use: ocr}\nname: low\n",
            provenance={"commit": "aaa", "versions": {"torch": "2.8"}},
            pictures=(Picture(heading="Update 0", png=PNG, update=0), Picture(heading="Update 30", png=PNG, update=30)),
        ),
        "high": RunContents(
            name="high",
            records=make_history(12, rewards=("exact_match",), num_steps=2),
            config="learning: {rate: 0.001, updates: 30}\nrewards:\n- {use: ocr}\n- {use: judge}\nname: high\n",
            provenance={"commit": "bbb", "versions": {"torch": "2.8"}},
            planned_updates=30,
        ),
    }


def test_runs_become_one_page_with_their_figures_side_by_side(runs) -> None:
    text = render_comparison(runs)
    check(text, PARTS)
    assert "low &lt;rate&gt;" in text
    assert "18.3 % → 74.1 %" in text
    assert "12 of 30" in text
    assert "Unfinished: high" in text


def test_only_settings_that_differ_are_shown_and_the_rest_is_counted(runs) -> None:
    text = render_comparison(runs)
    section = text[text.index('<section id="configuration">') : text.index('<section id="provenance">')]
    for words in ("learning.rate", "0.0001", "0.001", "rewards.1.use", "judge", "<th>name</th>"):
        assert words in section
    assert "learning.updates" not in section
    assert "rewards.0.use" not in section
    assert "3 settings differ, 2 are alike." in section
    provenance = text[text.index('<section id="provenance">') :]
    assert "bbb" in provenance
    assert "torch" not in provenance


def test_a_run_without_updates_and_one_without_rewards_are_compared_all_the_same(runs, make_history) -> None:
    bare = [msgspec.structs.replace(r, staleness=(), phase_seconds={}, call_seconds={}) for r in make_history(2)]
    for record in bare:
        record.report["rewards"] = {}
    everything = {**runs, "new": RunContents(name="new"), "bare": RunContents(name="bare", records=tuple(bare))}
    check(render_comparison(everything), PARTS)
    check(render_comparison({"a": RunContents(name="a"), "b": RunContents(name="b")}), PARTS)


def test_more_runs_than_colours_are_told_apart_by_their_lines(make_history) -> None:
    runs = {f"run {number}": RunContents(name="run", records=make_history(3)) for number in range(7)}
    text = render_comparison(runs)
    check(text, PARTS)
    assert "stroke-dasharray" in text[text.index('<section id="rewards">') :]


def test_what_one_run_does_not_have_differs() -> None:
    found = differences({"a": {"x": "1", "y": "2"}, "b": {"x": "1"}})
    assert found == {"y": {"a": "2", "b": "–"}}


def test_a_slider_stops_at_the_first_the_last_and_evenly_between() -> None:
    stops = spread(range(0, 1000, 5), 24)
    assert len(stops) == 24
    assert (stops[0], stops[-1]) == (0, 995)
    assert spread([1, 2, 3], 24) == [1, 2, 3]
