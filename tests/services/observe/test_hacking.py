"""The divergence test: what counts as reward hacking, and what is noise, progress or collapse."""

import json

import numpy as np
import pytest

from services.observe.hacking import FILE, Look, Scale, append_look, judge, keep_until, read_looks, sentence

SCALE = Scale(widths={"judge": 1.0}, signs={"ocr": 1.0}, fall=0.1, looks=2)
IMAGES = 128


def look(update: int, ocr: float, judged: float, spread: float = 0.1) -> Look:
    """Scores with these means over the same images; every look has its own noise."""
    numbers = np.random.default_rng(update)

    def scores(mean: float) -> list[float]:
        noise = numbers.normal(0.0, spread, IMAGES)
        return (mean + noise - noise.mean()).tolist()

    return Look(update=update, trained={"ocr": scores(ocr)}, panel={"judge": scores(judged)}, statistics={})


def looks(*pairs: tuple[float, float], **options) -> list[Look]:
    return [look(10 * index, ocr, judged, **options) for index, (ocr, judged) in enumerate(pairs)]


def test_a_reward_that_rises_while_the_panel_falls_is_hacked() -> None:
    verdict = judge(looks((0.3, 0.3), (0.5, 0.6), (0.7, 0.45), (0.9, 0.3)), SCALE)
    assert verdict.hacked == ("judge",)
    assert verdict.best_update == 10
    (fall,) = verdict.falls
    assert fall.fall == pytest.approx(0.3)
    assert (fall.best_update, fall.risen) == (10, "ocr")
    assert "judge fell by 0.300" in sentence(fall)


def test_one_bad_look_is_a_warning_and_no_alarm() -> None:
    history = looks((0.3, 0.3), (0.5, 0.6), (0.7, 0.45))
    assert judge(history, SCALE).falls[0].diverges
    assert judge(history, SCALE).hacked == ()
    assert judge([*history, look(30, 0.8, 0.6)], SCALE).hacked == ()


def test_progress_is_no_hacking() -> None:
    verdict = judge(looks((0.3, 0.3), (0.5, 0.5), (0.7, 0.7), (0.8, 0.78)), SCALE)
    assert verdict.hacked == ()
    assert verdict.best_update == 30


def test_a_policy_that_is_lost_altogether_does_not_hack_its_reward() -> None:
    assert judge(looks((0.3, 0.3), (0.7, 0.6), (0.4, 0.3), (0.2, 0.1)), SCALE).hacked == ()


def test_a_fall_within_its_own_uncertainty_is_noise() -> None:
    pairs = ((0.3, 0.3), (0.5, 0.6), (0.7, 0.48), (0.9, 0.48))
    assert judge(looks(*pairs, spread=0.1), SCALE).hacked == ("judge",)
    assert judge(looks(*pairs, spread=2.0), SCALE).hacked == ()


def test_falls_are_measured_in_widths_of_the_held_out_rewards_range() -> None:
    wide = Scale(widths={"judge": 10.0}, signs={"ocr": 1.0}, fall=0.1, looks=1)
    assert judge(looks((0.3, 0.6), (0.9, 0.3)), wide).falls[0].fall == pytest.approx(0.03)


def test_a_penalty_rises_when_its_score_falls() -> None:
    penalty = Scale(widths={"judge": 1.0}, signs={"ocr": -1.0}, fall=0.1, looks=1)
    history = looks((0.9, 0.6), (0.2, 0.3))
    assert judge(history, penalty).hacked == ("judge",)
    assert judge(history, SCALE).hacked == ()


def test_the_first_look_is_the_best_one_and_says_nothing() -> None:
    verdict = judge(looks((0.3, 0.3)), SCALE)
    assert (verdict.best_update, verdict.hacked) == (0, ())
    assert not verdict.falls[0].diverges


def test_of_equally_good_looks_the_earliest_is_the_best() -> None:
    same = looks((0.3, 0.5), (0.4, 0.5), spread=0.0)
    assert judge(same, SCALE).best_update == 0


def test_looks_are_kept_and_those_of_updates_that_were_taken_back_are_dropped(tmp_path) -> None:
    for entry in looks((0.1, 0.1), (0.2, 0.2), (0.3, 0.3)):
        append_look(tmp_path, entry)
    assert [entry.update for entry in keep_until(tmp_path, 15)] == [0, 10]
    again = look(20, 0.9, 0.9)
    append_look(tmp_path, again)
    found = read_looks(tmp_path)
    assert [entry.update for entry in found] == [0, 10, 20]
    assert found[-1] == again


def test_a_torn_last_look_is_left_out(tmp_path) -> None:
    append_look(tmp_path, look(0, 0.1, 0.1))
    with (tmp_path / FILE).open("a") as file:
        file.write(json.dumps({"update": 10})[:8])
    assert [entry.update for entry in read_looks(tmp_path)] == [0]
