"""A judge that is down, full, or answers nonsense: never a zero, always an error that says what was wrong."""

import json
import math

import httpx
import numpy as np
import pytest

from rewards.breaker import Breaker, BreakerOpenError
from rewards.http_call import BusyError, HttpCaller
from rewards.lanes import Lanes
from rewards.remote_wire import Question
from rewards.reward import RewardError, checked
from rewards.vlm.answers import Answers, digest
from rewards.vlm.chat import Judge, UnreadableAnswerError, read_numbers, read_share
from rewards.vlm.fake_server import FakeServer, brightness
from rewards.vlm.pictures import PictureLimits, data_url
from rewards.vlm.templates import load_template
from rewards.vlm.yes_no import YesNo


def yes_no(url: str, attempts: int = 2, answers: Answers | None = None) -> YesNo:
    call = HttpCaller(
        client=httpx.Client(base_url=url),
        service=url,
        timeout_s=5.0,
        attempts=attempts,
        breaker=Breaker(failures=3, pause_s=60.0, clock=lambda: 0.0),
        sleep=lambda _: None,
    )
    limits = PictureLimits(max_side=64, max_bytes=10_000)
    kept = Answers(100) if answers is None else answers
    judge = Judge(call=call, model="fake", pictures=limits, concurrency=1, answers=kept)
    return YesNo(judge, load_template("yes_no", None, ("prompt",)))


def score(reward: YesNo, images: np.ndarray) -> list[float]:
    return checked(reward, images, ["a cat"] * len(images), [{}] * len(images)).tolist()


def completion(**choice: object) -> bytes:
    return json.dumps({"choices": [choice]}).encode()


def tokens(*found: tuple[str, float]) -> bytes:
    top = [{"token": token, "logprob": value} for token, value in found]
    return completion(message={"content": "x"}, logprobs={"content": [{"top_logprobs": top}]})


def test_the_share_counts_every_way_to_write_the_words() -> None:
    body = tokens(("Yes", math.log(0.3)), (" yes", math.log(0.1)), ("▁No", math.log(0.1)), ("Maybe", math.log(0.5)))
    assert read_share(body, "yes", "no") == pytest.approx(0.8)
    assert read_share(tokens(("no", -0.1)), "yes", "no") == 0.0


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"<html>", "expected a chat completion"),
        (b'{"choices": []}', "expected a chat completion"),
        (b'{"choices": ["yes"]}', "expected a chat completion"),
        (completion(message={"content": "yes"}), "the server must support logprobs"),
        (completion(logprobs={"content": []}), "the server must support logprobs"),
        (completion(logprobs={"content": [{"top_logprobs": [{"token": "yes"}]}]}), "must support logprobs"),
        (tokens(("Maybe", -0.1)), r"expected 'yes' or 'no' among the likely first tokens; found \['maybe'\]"),
        (tokens(("yes", math.nan), ("no", -1.0)), "expected log probabilities of at most 0"),
        (tokens(("yes", 1000.0)), "expected log probabilities of at most 0"),
        (tokens(("yes", -math.inf)), "expected 'yes' or 'no'"),
    ],
)
def test_an_answer_without_a_readable_share_is_an_error(body, complaint) -> None:
    with pytest.raises(UnreadableAnswerError, match=complaint):
        read_share(body, "yes", "no")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("four", "expected an answer in JSON; found 'four'"),
        (None, "expected an answer in JSON"),
        ("[4]", "expected 'style' from 1 to 5; found None"),
        ('{"style": 6}', "expected 'style' from 1 to 5; found 6"),
        ('{"style": "4"}', "found '4'"),
        ('{"style": true}', "found True"),
        ('{"style": NaN}', "found nan"),
        ('{"other": 3}', "found None"),
    ],
)
def test_an_answer_without_readable_numbers_is_an_error(text, complaint) -> None:
    with pytest.raises(UnreadableAnswerError, match=complaint):
        read_numbers(completion(message={"content": text}), ("style",), 1, 5)


def test_a_full_judge_is_asked_again(server, greys) -> None:
    server.faults.append((429, b"{}"))
    reward = yes_no(server.url)
    assert len(score(reward, greys[:2])) == 2
    assert reward.judge.statistics().retries == 1
    reward.judge.close()


def test_one_unreadable_answer_fails_the_call_and_the_others_are_not_asked_again(server, greys) -> None:
    server.faults.append((200, b"nonsense"))
    reward = yes_no(server.url)
    with pytest.raises(UnreadableAnswerError):
        score(reward, greys)
    assert len(score(reward, greys)) == 4
    assert len(server.questions) == 5, "the answers that could be read were kept, the nonsense was not"
    reward.judge.close()


def test_a_judge_that_dies_in_the_middle_is_an_error_and_after_its_return_only_the_rest_is_asked(greys) -> None:
    server, answers = FakeServer(), Answers(100)
    reward = yes_no(server.url, answers=answers)
    score(reward, greys[:3])
    reward.judge.close()
    server.close()
    reward = yes_no(server.url, answers=answers)
    with pytest.raises(BusyError, match="cannot be reached"):
        score(reward, greys)
    server = FakeServer(server.port)
    assert len(score(reward, greys)) == 4
    assert len(server.questions) == 1
    reward.judge.close()
    server.close()


def test_a_judge_that_stays_down_is_soon_left_alone(server, greys) -> None:
    server.faults.extend([(500, b"{}")] * 100)
    reward = yes_no(server.url, attempts=1)
    for _ in range(3):
        with pytest.raises(RewardError):
            score(reward, greys[:1])
    with pytest.raises(BreakerOpenError):
        score(reward, greys[:1])
    assert len(server.questions) == 3
    assert reward.judge.statistics().breaker_open
    reward.judge.close()


def test_a_picture_travels_unchanged_up_to_the_limit_and_is_shrunk_beyond_it() -> None:
    ramp = np.arange(64 * 32 * 3, dtype=np.uint8).reshape(32, 64, 3)
    limits = PictureLimits(max_side=64, max_bytes=10_000)
    assert brightness(data_url(ramp, limits)) == pytest.approx(ramp.mean() / 255)
    white = np.full((400, 100, 3), 255, np.uint8)
    assert len(data_url(white, limits)) < 400
    assert brightness(data_url(white, limits)) == 1


def test_a_picture_that_is_still_too_large_is_an_error_that_says_what_to_change() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(RewardError, match=r"at most 1000 bytes as PNG; found .*judge\.max_side"):
        data_url(noise, PictureLimits(max_side=64, max_bytes=1000))


def test_only_the_answers_used_last_are_kept() -> None:
    answers = Answers(2)
    answers.keep("a", b"1")
    answers.keep("b", b"2")
    assert answers.get("a") == b"1"
    answers.keep("c", b"3")
    assert (answers.get("a"), answers.get("b"), answers.get("c")) == (b"1", None, b"3")
    assert len(answers) == 2


def test_a_digest_tells_apart_what_only_runs_together() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a") != digest("a", "")


def test_a_lane_tells_of_its_judges_retries_and_of_its_open_breaker(server, greys) -> None:
    server.faults.extend([(503, b"")] * 6)
    reward = yes_no(server.url)
    lanes = Lanes({"judge": (reward, 1)})
    lanes.put(0, {"judge": Question(images=greys[:3], prompts=["a cat"] * 3, metadata=[{}] * 3)})
    answers = lanes.answers()
    assert all(isinstance(next(answers).scores, RewardError) for _ in range(3))
    tally = lanes.tallies()["judge"]
    assert (tally.calls, tally.failures, tally.images, tally.retries, tally.breakers_open) == (3, 3, 0, 3, 1)
    lanes.close()
    reward.judge.close()
