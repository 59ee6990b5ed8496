"""The reference server over a real connection, asked by the client that runs use."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from rewards.http_call import BusyError, RefusedError
from rewards.remote import RemoteReward, build_remote
from rewards.remote_wire import Question, encode_question
from rewards.reward import RewardError, checked
from tests.services.serving.servers import serving

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 12, 3), dtype=np.uint8)
BRIGHTNESS = IMAGES.mean(axis=(1, 2, 3)) / 255


class Brightness:
    """A reward that can be held up, and that fails where the prompt says so."""

    name = "brightness"
    range = (0.0, 1.0)
    required_metadata = ("target",)
    compares = False

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[int] = []

    def __call__(self, images, prompts, metadata):
        self.gate.wait(10.0)
        self.asked.append(len(images))
        scores = images.mean(axis=(1, 2, 3)) / 255
        if "nan" in prompts:
            scores[prompts.index("nan")] = np.nan
        if "crash" in prompts:
            raise ZeroDivisionError("secret of the house")
        if "refuse" in prompts:
            raise ValueError("no such colour")
        return scores[:-1] if "short" in prompts else scores


@pytest.fixture
def brightness() -> Brightness:
    return Brightness()


def ask(reward: RemoteReward, *prompts: str) -> np.ndarray:
    count = len(prompts)
    return checked(reward, IMAGES[:count], list(prompts), [{"target": "1"}] * count)


@contextlib.contextmanager
def connected(url: str, **options) -> Iterator[RemoteReward]:
    reward = build_remote(url=url, **options)
    yield reward
    reward.close()


def post(url: str, content: bytes, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/score", content=content, headers=headers)


def frame(count: int = 1) -> bytes:
    question = Question(images=IMAGES[:count], prompts=["p"] * count, metadata=[{"target": "1"}] * count)
    return encode_question(question, "raw")


@pytest.mark.parametrize("image_format", ["raw", "png"])
def test_scores_over_the_network_are_those_of_the_reward_itself(brightness, image_format) -> None:
    with serving(brightness) as url, connected(url, image_format=image_format) as reward:
        assert (reward.name, reward.range, reward.required_metadata) == ("remote:brightness", (0, 1), ("target",))
        np.testing.assert_allclose(ask(reward, *"abcdef"), BRIGHTNESS, rtol=1e-6)


def test_questions_that_wait_are_scored_together_and_everyone_gets_their_own(brightness) -> None:
    with serving(brightness, batch_images=4) as url, ThreadPoolExecutor(6) as threads:
        brightness.gate.clear()
        answers = [threads.submit(lambda i: post(url, one(i)), index) for index in range(6)]
        wait_until(lambda: held_bytes(url) >= 6 * IMAGES[0].nbytes)
        brightness.gate.set()
        scores = [answer.result().json()["scores"] for answer in answers]
    np.testing.assert_allclose(np.ravel(scores), BRIGHTNESS, rtol=1e-6)
    assert sum(brightness.asked) == 6
    assert 1 < max(brightness.asked) <= 4


def one(index: int) -> bytes:
    question = Question(images=IMAGES[index : index + 1], prompts=["p"], metadata=[{"target": "1"}])
    return encode_question(question, "raw")


def held_bytes(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("tafs_reward_held_bytes{"))


def wait_until(true, within_s: float = 5.0) -> None:
    done = threading.Event()
    for _ in range(int(within_s / 0.01)):
        if true():
            return
        done.wait(0.01)
    raise AssertionError("it did not happen")


def test_a_question_that_fails_does_not_spoil_the_others_in_its_batch(brightness) -> None:
    with serving(brightness) as url, connected(url, attempts=1) as reward, ThreadPoolExecutor(3) as threads:
        brightness.gate.clear()
        good, bad, late = (threads.submit(ask, reward, prompt) for prompt in ("a", "nan", "b"))
        wait_until(lambda: held_bytes(url) >= 3 * IMAGES[0].nbytes)
        brightness.gate.set()
        np.testing.assert_allclose([*good.result(), *late.result()], BRIGHTNESS[[0, 0]], rtol=1e-6)
        with pytest.raises(BusyError, match=r"answered 500.*expected finite float32 scores"):
            bad.result()


@pytest.mark.parametrize(
    ("prompt", "error", "complaint"),
    [
        ("nan", BusyError, "answered 500.*expected finite float32 scores"),
        ("short", BusyError, "answered 500.*expected 1 scores; found shape"),
        ("crash", BusyError, "answered 500.*the reward failed: ZeroDivisionError"),
        ("refuse", RefusedError, "answered 422.*no such colour"),
    ],
)
def test_a_reward_that_fails_is_an_error_at_the_client_and_the_server_lives_on(
    brightness, prompt, error, complaint
) -> None:
    with serving(brightness) as url, connected(url, attempts=1, breaker_failures=9) as reward:
        with pytest.raises(error, match=complaint) as caught:
            ask(reward, prompt)
        assert "secret" not in str(caught.value)
        assert len(ask(reward, "a")) == 1


def test_missing_metadata_are_refused_by_name(brightness) -> None:
    question = Question(images=IMAGES[:1], prompts=["p"], metadata=[{}])
    with serving(brightness) as url:
        answer = post(url, encode_question(question, "raw"))
    assert answer.status_code == 422
    assert "expected metadata key 'target' at prompt 0" in answer.json()["detail"]


def test_a_full_server_says_when_to_come_back_and_what_it_took_it_answers(brightness) -> None:
    size = len(frame())
    with serving(brightness, max_bytes=size, max_waiting_bytes=2 * size) as url, ThreadPoolExecutor(2) as threads:
        brightness.gate.clear()
        taken = [threads.submit(post, url, frame()) for _ in range(2)]
        wait_until(lambda: held_bytes(url) == 2 * size)
        refused = post(url, frame())
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        brightness.gate.set()
        assert [answer.result().status_code for answer in taken] == [200, 200]
        assert held_bytes(url) == 0
        assert post(url, frame()).status_code == 200


@pytest.mark.parametrize(
    ("settings", "status"),
    [({"max_images": 1}, 413), ({"max_pixels": 100}, 413), ({"max_bytes": 300}, 413)],
)
def test_what_is_beyond_the_limits_is_refused(brightness, settings, status) -> None:
    with serving(brightness, **settings) as url:
        assert post(url, frame(2)).status_code == status
    assert brightness.asked == []


def test_a_body_without_an_announced_length_is_refused(brightness) -> None:
    with serving(brightness) as url:
        assert httpx.post(f"{url}/v1/score", content=iter([frame()])).status_code == 411


def test_what_is_no_frame_is_refused(brightness) -> None:
    with serving(brightness) as url:
        answer = post(url, b"\x80\x04pickle")
    assert answer.status_code == 400
    assert "expected a header" in answer.json()["detail"]


def test_only_health_is_open_to_those_without_the_token(brightness, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with serving(brightness, token="s3cret") as url:
        assert httpx.get(f"{url}/health").json() == {"status": "ok", "version": 1}
        for path in ("capabilities", "metrics"):
            assert httpx.get(f"{url}/{path}").status_code == 401
        assert post(url, frame()).status_code == 401
        assert post(url, frame(), Authorization="Bearer wrong").status_code == 401
        assert post(url, frame(), Authorization="Bearer s3cret").status_code == 200
        with pytest.raises(RewardError, match="answered 401"):
            build_remote(url=url)
        with connected(url, token_file=str(tmp_path / "token")) as reward:
            assert len(ask(reward, "a")) == 1
    assert brightness.asked == [1, 1]


def test_the_metrics_count_requests_by_answer_and_images(brightness) -> None:
    with serving(brightness) as url:
        post(url, frame(3))
        post(url, b"")
        text = httpx.get(f"{url}/metrics").text
    assert 'tafs_reward_requests_total{reward="brightness",status="200"} 1.0' in text
    assert 'tafs_reward_requests_total{reward="brightness",status="400"} 1.0' in text
    assert 'tafs_reward_images_total{reward="brightness"} 3.0' in text
    assert 'tafs_reward_call_seconds_count{reward="brightness"} 1.0' in text


def test_the_openapi_description_names_every_endpoint_and_answer(brightness) -> None:
    with serving(brightness) as url:
        found = httpx.get(f"{url}/openapi.json").json()
    assert sorted(found["paths"]) == ["/capabilities", "/health", "/metrics", "/v1/score"]
    score = found["paths"]["/v1/score"]["post"]
    assert list(score["requestBody"]["content"]) == ["application/octet-stream"]
    assert {"200", "400", "401", "411", "413", "422", "429", "500"} <= score["responses"].keys()


def test_memory_for_requests_is_given_back_however_they_end(brightness) -> None:
    with serving(brightness) as url:
        for content in (b"", frame()[:-1], frame(2), frame()):
            post(url, content)
        assert held_bytes(url) == 0
