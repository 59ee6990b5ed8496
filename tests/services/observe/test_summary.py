import json
from pathlib import Path

import pytest

from services.observe.summary import (
    Evaluation,
    build_summary,
    evaluations_of,
    normal_interval,
    read_summary,
    wilson_interval,
    write_summary,
)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", Stat. Med. 17, table I
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_has_the_published_values(hits: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(hits / n, n) == pytest.approx((low, high), abs=5e-5)


def test_wilsons_interval_mirrors_and_stays_between_0_and_1() -> None:
    for n in (1, 7, 500):
        for hits in range(0, n + 1, max(1, n // 7)):
            low, high = wilson_interval(hits / n, n)
            assert 0.0 <= low <= hits / n <= high <= 1.0
            mirrored = wilson_interval(1 - hits / n, n)
            assert mirrored == pytest.approx((1 - high, 1 - low))


def test_the_normal_interval_shrinks_with_the_root_of_n() -> None:
    assert normal_interval(2.0, 1.0, 100) == pytest.approx((2 - 0.195996, 2 + 0.195996), abs=1e-6)


def test_the_summary_has_each_figure_with_its_images_and_interval(make_history, evaluations) -> None:
    summary = build_summary(make_history(10), evaluations, wall_seconds=100.0, slots=2)
    row = summary["exact_match"]["tau_1"]
    assert (row["before"], row["after"]) == (0.094, 0.802)
    assert row["images"] == {"before": 576, "after": 576}
    assert row["interval_95"]["after"] == pytest.approx(wilson_interval(0.802, 576))
    assert set(summary["judge_exact_match"]) == {"serving", "tau_0", "tau_1"}


def test_the_summary_counts_updates_images_seconds_and_utilisation(make_history) -> None:
    records = make_history(10)
    summary = build_summary(records, (), wall_seconds=100.0, slots=2)
    assert (summary["updates"], summary["images"], summary["wall_seconds"]) == (10, 1280, 100.0)
    assert summary["phase_seconds"]["wait"] == pytest.approx(sum(r.phase_seconds["wait"] for r in records))
    calls = sum(sum(record.call_seconds.values()) for record in records)
    assert summary["utilisation"] == pytest.approx(calls / 200.0)


def test_an_evaluation_missing_after_training_is_null(make_history, evaluations) -> None:
    before = [entry for entry in evaluations if entry.when == "before"]
    row = build_summary((), before, wall_seconds=1.0, slots=1)["exact_match"]["serving"]
    assert row["after"] is None
    assert set(row["interval_95"]) == {"before"}


def test_a_run_without_anything_has_a_summary(tmp_path: Path) -> None:
    summary = build_summary((), (), wall_seconds=0.0, slots=1)
    write_summary(tmp_path / "summary.json", summary)
    assert json.loads((tmp_path / "summary.json").read_text())["exact_match"] == {}
    assert summary["updates"] == 0


def test_the_evaluations_come_back_out_of_a_written_summary(tmp_path: Path, evaluations, mean_reward) -> None:
    given = (*evaluations, *mean_reward)
    write_summary(tmp_path / "summary.json", build_summary((), given, wall_seconds=1.0, slots=1))
    assert set(evaluations_of(read_summary(tmp_path / "summary.json"))) == set(given)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_share_outside_0_and_1_and_a_figure_of_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="needs its std"):
        Evaluation(sampler="serving", when="before", metric="jpeg_size", value=-2.0, images=10)
    with pytest.raises(ValueError, match="at least one image"):
        Evaluation(sampler="serving", when="before", metric="exact_match", value=0.0, images=0)
