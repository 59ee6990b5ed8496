"""The client against servers that are down, slow, full, or answer nonsense."""

from collections.abc import Callable

import httpx
import numpy as np
import pytest

from rewards.breaker import Breaker, BreakerOpenError
from rewards.http_call import MAX_ANSWER_BYTES, BusyError, HttpCaller, RefusedError
from rewards.remote import RemoteReward, build_remote, connect, read_token
from rewards.remote_wire import Limits, decode_question
from rewards.reward import BadScoresError, RewardError, checked

LIMITS = {"max_images": 2, "max_bytes": 100_000, "max_pixels": 1000}
CAPABILITIES = {
    "versions": [1], "formats": ["raw", "png"], "reward": "brightness", "range": [0, 255],
    "required_metadata": ["target"], "limits": LIMITS,
}  # fmt: skip
Handler = Callable[[httpx.Request], httpx.Response]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def caller(handler: Handler, clock: Clock, attempts: int = 3) -> HttpCaller:
    return HttpCaller(
        client=httpx.Client(transport=httpx.MockTransport(handler), base_url="http://judge"),
        service="http://judge",
        timeout_s=10.0,
        attempts=attempts,
        breaker=Breaker(failures=2, pause_s=30.0, clock=clock),
        sleep=clock.sleep,
        clock=clock,
    )


def brightness(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/capabilities":
        return httpx.Response(200, json=CAPABILITIES)
    question = decode_question(request.content, Limits(**LIMITS))
    scores = question.images.mean(axis=(1, 2, 3)).tolist()
    return httpx.Response(200, json={"version": 1, "reward": "brightness", "scores": scores})


def remote(answers: list[httpx.Response | Exception], clock: Clock) -> RemoteReward:
    """A reward whose server gives these answers to questions, then good ones."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/capabilities" or not answers:
            return brightness(request)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return connect(caller(handler, clock), "raw")


IMAGES = np.random.default_rng(0).integers(0, 256, (5, 10, 10, 3), dtype=np.uint8)


def score(reward: RemoteReward, count: int = 2) -> list[float]:
    return checked(reward, IMAGES[:count], ["p"] * count, [{"target": "1"}] * count).tolist()


def test_a_remote_reward_is_what_its_server_says_and_scores_as_the_server_does(clock) -> None:
    reward = remote([], clock)
    assert (reward.name, reward.range, reward.required_metadata) == ("remote:brightness", (0, 255), ("target",))
    np.testing.assert_allclose(score(reward, 5), IMAGES.mean(axis=(1, 2, 3)), rtol=1e-6)


def test_more_images_than_one_request_may_hold_are_split_in_order(clock) -> None:
    reward = remote([], clock)
    score(reward, 5)
    assert reward.statistics().answered == 1 + 3


def test_an_image_that_fits_no_request_is_an_error_that_says_where_to_change_it(clock) -> None:
    with pytest.raises(RewardError, match="found 40x40; change the limits in the server's configuration"):
        checked(remote([], clock), np.zeros((1, 40, 40, 3), np.uint8), ["p"], [{"target": "1"}])


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ConnectError("connection refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut off"),
        httpx.Response(500),
        httpx.Response(503),
    ],
    ids=["down", "slow", "cut off", "500", "503"],
)
def test_a_fault_that_passes_is_retried_with_growing_pauses(clock, fault) -> None:
    reward = remote([fault, fault], clock)
    np.testing.assert_allclose(score(reward), IMAGES[:2].mean(axis=(1, 2, 3)), rtol=1e-6)
    assert clock.slept == [0.5, 1.0]
    assert reward.statistics().retries == 2


def test_a_full_server_is_asked_again_when_it_said(clock) -> None:
    reward = remote([httpx.Response(429, headers={"Retry-After": "7"})], clock)
    score(reward)
    assert clock.slept == [7.0]


def test_a_server_cannot_make_us_wait_for_ever(clock) -> None:
    score(remote([httpx.Response(429, headers={"Retry-After": "999999"})], clock))
    assert clock.slept == [60.0]


def test_a_server_that_stays_down_is_an_error_and_never_a_score(clock) -> None:
    reward = remote([httpx.ConnectError("connection refused")] * 3, clock)
    with pytest.raises(BusyError, match="http://judge: cannot be reached: connection refused"):
        score(reward)
    statistics = reward.statistics()
    assert (statistics.failed, statistics.retries, statistics.breaker_open) == (1, 2, False)


def test_after_several_failed_calls_the_server_is_left_alone_and_then_tried_again(clock) -> None:
    reward = remote([httpx.ConnectError("down")] * 6, clock)
    for _ in range(2):
        with pytest.raises(BusyError):
            score(reward)
    assert reward.statistics().breaker_open
    asleep = list(clock.slept)
    with pytest.raises(BreakerOpenError, match="not asked: the last 2 calls failed"):
        score(reward)
    assert clock.slept == asleep, "an open breaker answers at once"
    clock.now += 30.0
    assert len(score(reward)) == 2
    assert not reward.statistics().breaker_open


@pytest.mark.parametrize(
    ("status", "error"), [(400, RefusedError), (401, RefusedError), (413, RefusedError), (422, RefusedError)]
)
def test_what_the_server_refuses_is_not_asked_again_and_does_not_open_the_breaker(clock, status, error) -> None:
    reward = remote([httpx.Response(status, json={"detail": "no such target"})] * 3, clock)
    for _ in range(3):
        with pytest.raises(error, match=f"answered {status}.*no such target"):
            score(reward)
    assert clock.slept == []
    assert not reward.statistics().breaker_open


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b'{"version": 1, "scores": [1]}',
        b'{"version": 1, "scores": [1, NaN]}',
        b'{"version": 9, "scores": [1, 2]}',
    ],
    ids=["garbage", "wrong length", "NaN", "another version"],
)
def test_nonsense_is_an_error_that_is_not_retried_and_opens_the_breaker(clock, body) -> None:
    reward = remote([httpx.Response(200, content=body)] * 2, clock)
    for _ in range(2):
        with pytest.raises(BadScoresError):
            score(reward)
    assert clock.slept == []
    assert reward.statistics().breaker_open


def test_an_endless_answer_is_cut_off(clock) -> None:
    endless = httpx.Response(200, content=(bytes(2**20) for _ in range(10**6)))
    with pytest.raises(RefusedError, match=f"expected at most {MAX_ANSWER_BYTES} bytes"):
        score(remote([endless], clock))


def test_an_answer_that_trickles_in_does_not_outlive_the_timeout(clock) -> None:
    def trickle():
        while True:
            clock.now += 3.0
            yield b" "

    with pytest.raises(BusyError, match="no whole answer within 10 s"):
        score(remote([httpx.Response(200, content=trickle()) for _ in range(3)], clock))


@pytest.mark.parametrize(
    "found",
    [
        [], {}, {**CAPABILITIES, "range": 3}, {**CAPABILITIES, "limits": {}}, {**CAPABILITIES, "versions": [2]},
        {**CAPABILITIES, "formats": ["bmp"]},
    ],
)  # fmt: skip
def test_a_server_that_is_no_reward_server_is_refused_when_the_reward_is_built(clock, found) -> None:
    with pytest.raises(RewardError, match="http://judge: expected a"):
        connect(caller(lambda _: httpx.Response(200, json=found), clock), "raw")


def test_building_a_remote_reward_without_a_server_says_which(tmp_path) -> None:
    with pytest.raises(RewardError, match=r"http://127.0.0.1:1: cannot be reached"):
        build_remote(url="http://127.0.0.1:1", attempts=1)


@pytest.mark.parametrize("options", [{"image_format": "bmp"}, {"attempts": 0}, {"timeout_s": 0}])
def test_options_that_cannot_be_are_refused(options) -> None:
    with pytest.raises(ValueError, match="reward 'remote': expected"):
        build_remote(url="http://127.0.0.1:1", **options)


@pytest.mark.parametrize("text", ["", " \n", "two\nlines", "grün"])
def test_a_token_file_must_hold_a_token(tmp_path, text) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(ValueError, match="expected a token of printable ASCII in the file"):
        read_token(tmp_path / "token")
    with pytest.raises(ValueError, match="expected a token in the file"):
        read_token(tmp_path / "absent")
