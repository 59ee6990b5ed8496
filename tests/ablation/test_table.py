import json
import math

import pytest

from tests.ablation.arms import ARMS
from tests.ablation.study import read_records, searched
from tests.ablation.table import figure, first_reached, interval, paired, ratio, table


def curve(*values):
    return [
        {"images": 100 * i, "seconds": 2.0 * i, "serving": v, "tau_0": v / 2, "judge_serving": v}
        for i, v in enumerate(values)
    ]


def record(arm, seed, *values):
    return {
        "arm": arm,
        "seed": seed,
        "settings": ["learning.rate=0.001", f"seed={seed}"],
        "curve": curve(*values),
        "seconds": 2.0 * len(values),
        "distance": 0.5,
        "dropped": 0.0,
    }


RECORDS = [
    record("base", 1, 0.2, 0.4, 0.6), record("base", 2, 0.2, 0.5, 0.9), record("ours", 1, 0.2, 0.7, 0.9),
    record("ours", 2, 0.2, 0.8, 0.95), record("ours", 3, 0.2, 0.3, 0.4),
]  # fmt: skip


def test_images_to_the_target_are_read_between_evaluations_and_censored_where_it_is_not_reached():
    assert first_reached(curve(0.2, 0.7, 0.9), "serving", "images") == pytest.approx(150.0)
    assert first_reached(curve(0.2, 0.7, 0.9), "serving", "seconds") == pytest.approx(3.0)
    assert first_reached(curve(0.9, 0.7), "serving", "images") == 0.0
    assert first_reached(curve(0.2, 0.7), "serving", "images") == math.inf
    assert first_reached(curve(0.2, 0.9, 0.5), "serving", "images") == pytest.approx(600 / 7)  # first, not last


def test_an_interval_is_students():
    mean, half = interval([0.1, 0.2, 0.3])
    assert (mean, half) == (pytest.approx(0.2), pytest.approx(4.303 * 0.1 / 3**0.5))
    assert math.isnan(interval([0.5])[1])


def test_arms_are_compared_over_the_seeds_that_both_have():
    mean, half = paired(RECORDS, "ours", "base", "serving")
    assert mean == pytest.approx((0.3 + 0.05) / 2)
    assert half == pytest.approx(12.706 * 0.25 / 2**0.5 / 2**0.5)
    assert math.isnan(paired(RECORDS, "ours", "absent", "serving")[0])


def test_what_is_needed_to_the_target_is_compared_by_seed_where_both_reach_it():
    assert ratio(RECORDS, "ours", "base", "images")[0] == pytest.approx(100 / 175)  # seed 2 alone
    both = [record("base", 1, 0.2, 0.8), record("base", 2, 0.2, 0.5, 0.8), record("ours", 1, 0.2, 0.5, 0.8),
            record("ours", 2, 0.2, 0.8)]  # fmt: skip
    mean, low, high = ratio(both, "ours", "base", "images")
    assert mean == pytest.approx(1.0)
    assert low < 1.0
    assert low * high == pytest.approx(1.0)
    assert math.isnan(ratio([RECORDS[0], RECORDS[2]], "ours", "base", "images")[0])


def test_the_table_tells_how_many_seeds_reached_the_target_and_what_is_censored():
    base, ours = table(RECORDS, "base").splitlines()[2:]
    assert "| > 200 (1/2) |" not in base  # the lower of two is reached
    assert "(1/2)" in base
    assert "| 133 (2/3) |" not in ours
    assert "(2/3)" in ours
    assert "+0.175" in ours
    assert "> 200" in table([RECORDS[0]], "base")


def test_the_figure_is_drawn(tmp_path):
    figure(RECORDS, "base", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_line_that_a_kill_cut_off_is_left_out_and_removed(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps({"arm": "a"}) + "\n" + '{"arm": "b", "se')
    assert read_records(path) == [{"arm": "a"}]
    assert path.read_text() == '{"arm": "a"}\n'
    assert read_records(tmp_path / "absent") == []


def test_every_arm_searches_rates_by_temperatures_and_the_fixed_ones_rates_alone():
    for name, settings, hot in (("step_aware", 6, 3), ("adaptive", 3, 3)):
        assert len(list(searched(ARMS[name], ARMS[name].rates, hot=False))) == settings
        assert len(list(searched(ARMS[name], ARMS[name].rates, hot=True))) == hot
    assert list(searched(ARMS["flow_sde_terminal"], (7e-4,), hot=True)) == [
        ("learning.rate=0.0007", "sampling.temperature={start: 0.9}")
    ]
