"""Every kind of question, over HTTP, to a server whose answers follow from the pictures' brightness."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rewards.build import build
from rewards.reward import Reward, checked
from rewards.vlm.fake_server import FakeServer
from rewards.vlm.pairwise import pairs


@contextlib.contextmanager
def built(name: str, server: FakeServer, judge: dict[str, object] | None = None, **options: object) -> Iterator[Reward]:
    judge = {"url": server.url, "model": "fake", "concurrency": 2, **(judge or {})}
    reward = build(name, {"judge": judge, **options})
    yield reward
    reward.judge.close()


def score(reward: Reward, images: np.ndarray, metadata: dict[str, object] | None = None) -> list[float]:
    return checked(reward, images, ["a cat"] * len(images), [metadata or {}] * len(images)).tolist()


def test_yes_no_is_the_share_of_yes_in_the_first_token(server, greys) -> None:
    with built("vlm_yes_no", server) as reward:
        np.testing.assert_allclose(score(reward, greys), [0, 0.2, 0.6, 1], atol=1e-5)
    asked = server.questions[0]
    assert asked["messages"][0]["content"][1]["text"] == ('Does this picture show "a cat"? Answer with yes or no only.')
    assert (asked["max_tokens"], asked["logprobs"], asked["top_logprobs"], asked["temperature"]) == (1, True, 20, 0)


def test_a_rubric_is_the_mean_mark_scaled_to_one(server, greys) -> None:
    with built("vlm_rubric", server, criteria=["light", "colour"]) as reward:
        np.testing.assert_allclose(score(reward, greys), [0, 0.25, 0.5, 1])
    schema = server.questions[0]["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["light", "colour"]
    assert "light, colour" in server.questions[0]["messages"][0]["content"][1]["text"]


def test_pairwise_is_the_mean_probability_of_winning_against_the_others(server, greys) -> None:
    with built("vlm_pairwise", server) as reward:
        got = score(reward, greys[1:])
    wins = [[0, 51 / 204, 51 / 306], [153 / 204, 0, 153 / 408], [255 / 306, 255 / 408, 0]]
    np.testing.assert_allclose(got, np.sum(wins, axis=1) / 2, rtol=1e-4)
    assert len(server.questions) == 3 * 2, "each pair in both orders"


def test_pairwise_compares_only_pictures_of_one_prompt_and_gives_a_lone_one_a_half(server, greys) -> None:
    with built("vlm_pairwise", server) as reward:
        got = checked(reward, greys[1:], ["a", "b", "a"], [{}] * 3)
    np.testing.assert_allclose(got, [1 / 6, 0.5, 5 / 6], rtol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 8])
def test_everybody_meets_everybody_once(count) -> None:
    met = pairs(range(count), None)
    assert sorted(met) == [(i, j) for i in range(count) for j in range(i + 1, count)]


@pytest.mark.parametrize(("count", "opponents"), [(7, 2), (8, 4), (9, 6)])
def test_in_a_ring_everybody_meets_as_many_opponents(count, opponents) -> None:
    met = pairs(range(count), opponents)
    assert [sum(place in match for match in met) for place in range(count)] == [opponents] * count


def test_counting_is_the_share_of_kinds_whose_number_is_right(server, greys) -> None:
    with built("vlm_counting", server) as reward:
        assert score(reward, greys, {"counts": {"cat": 200, "dog": 0}}) == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize("counts", [None, [], {}, {"cat": "2"}, {"cat": True}])
def test_counts_that_are_none_are_the_prompt_files_mistake(server, greys, counts) -> None:
    with built("vlm_counting", server) as reward, pytest.raises(ValueError, match="metadata 'counts' at prompt 0"):
        score(reward, greys, {"counts": counts})
    assert server.questions == []


def test_a_question_that_was_answered_is_not_asked_again(server, greys) -> None:
    with built("vlm_yes_no", server) as reward:
        first = score(reward, greys)
        assert score(reward, greys[::-1]) == first[::-1]
        assert len(server.questions) == 4
        checked(reward, greys[:1], ["a dog"], [{}])
        assert len(server.questions) == 5, "another prompt is another question"


def test_answers_are_asked_for_again_where_none_are_kept(server, greys) -> None:
    with built("vlm_yes_no", server, {"kept_answers": 0}) as reward:
        score(reward, greys)
        score(reward, greys)
    assert len(server.questions) == 8


def test_a_template_of_ones_own_is_used(server, greys, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Costs $$5? $prompt!\n")
    with built("vlm_yes_no", server, template=str(tmp_path / "mine.txt")) as reward:
        score(reward, greys[:1])
    assert server.questions[0]["messages"][0]["content"][1]["text"] == "Costs $5? a cat!"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("Nice?", "found none"), ("$promt?", r"found \$promt"), ("$prompt for $5", "a literal dollar is")],
)
def test_a_template_that_asks_nothing_or_of_nothing_is_refused(server, tmp_path: Path, text, complaint) -> None:
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(ValueError, match=complaint), built("vlm_yes_no", server, template=str(tmp_path / "mine.txt")):
        pass


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("vlm_yes_no", {"template": "/absent"}, "expected a template in the file /absent"),
        ("vlm_rubric", {"criteria": []}, "expected different criteria"),
        ("vlm_rubric", {"criteria": "style"}, "expected different criteria"),
        ("vlm_pairwise", {"opponents": 3}, "expected an even number of opponents; found 3"),
        ("vlm_yes_no", {"judge": {"url": "http://x"}}, "found no model"),
        ("vlm_yes_no", {"judge": {"url": "http://x", "model": "m", "retries": 1}}, "unknown option 'retries'"),
        ("vlm_yes_no", {"judge": {"url": "http://x", "model": "m", "concurrency": 0}}, "concurrency and max_side"),
    ],
)
def test_options_that_cannot_be_are_refused(name, options, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        build(name, {"judge": {"url": "http://x", "model": "m"}, **options})
