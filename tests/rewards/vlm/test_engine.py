"""A judge in this process: what waits is asked together, and a failure is told to those who asked."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rewards.build import build
from rewards.http_call import Request
from rewards.reward import MissingModelError, RewardError, checked
from rewards.vlm.answers import Answers
from rewards.vlm.chat import Judge
from rewards.vlm.engine import CLOSE_S, EngineCaller
from rewards.vlm.fake_server import brightness
from rewards.vlm.pictures import PictureLimits
from rewards.vlm.templates import load_template
from rewards.vlm.yes_no import YesNo

PYTHON = os.environ.get("TAFS_VLLM_PYTHON", "")
ROOT = Path(__file__).resolve().parents[3]


class FakeEngine:
    """Answers as the fake server does; held up until `go`."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()
        self.fault: Exception | None = None

    def chat(self, questions):
        self.batches.append(len(questions))
        assert self.go.wait(20.0)
        if self.fault is not None:
            raise self.fault
        shares = [brightness(question["messages"][0]["content"][0]["image_url"]["url"]) for question in questions]
        tops = [
            [{"token": "Yes", "logprob": float(np.log(max(share, 1e-9)))},
             {"token": "No", "logprob": float(np.log(max(1 - share, 1e-9)))}]
            for share in shares
        ]  # fmt: skip
        return [{"message": {"content": "Yes"}, "logprobs": {"content": [{"top_logprobs": top}]}} for top in tops]


def reward_of(engine: FakeEngine) -> YesNo:
    judge = Judge(
        call=EngineCaller("engine", lambda: engine), model="m", pictures=PictureLimits(max_side=64, max_bytes=10_000),
        concurrency=8, answers=Answers(0),
    )  # fmt: skip
    return YesNo(judge, load_template("yes_no", None, ("prompt",)))


def test_an_engines_answers_are_read_like_a_servers(greys) -> None:
    engine = FakeEngine()
    engine.go.set()
    reward = reward_of(engine)
    np.testing.assert_allclose(checked(reward, greys, ["p"] * 4, [{}] * 4), [0.0, 0.2, 0.6, 1.0], atol=1e-6)
    assert reward.judge.statistics().answered == 4
    reward.judge.close()


def test_questions_that_wait_are_asked_together(greys) -> None:
    engine = FakeEngine()
    reward = reward_of(engine)
    threading.Timer(0.3, engine.go.set).start()
    checked(reward, greys, ["p"] * 4, [{}] * 4)
    assert sum(engine.batches) == 4
    assert len(engine.batches) <= 2
    reward.judge.close()


def test_an_engine_that_fails_is_never_a_zero_and_may_answer_later(greys) -> None:
    engine = FakeEngine()
    engine.go.set()
    engine.fault = RuntimeError("out of memory")
    reward = reward_of(engine)
    with pytest.raises(RewardError, match="engine: RuntimeError: out of memory"):
        checked(reward, greys, ["p"] * 4, [{}] * 4)
    engine.fault = None
    assert checked(reward, greys, ["p"] * 4, [{}] * 4)[3] == 1.0
    assert reward.judge.statistics().failed > 0
    reward.judge.close()


def test_without_vllm_the_first_question_says_so(greys) -> None:
    reward = build("vlm_yes_no", {"judge": {"url": "in-process", "model": "m", "engine": {}}})
    with pytest.raises(MissingModelError, match="expected vLLM for a judge in this process"):
        checked(reward, greys, ["p"] * 4, [{}] * 4)


@pytest.mark.parametrize("judge", [{"url": "in-process"}, {"url": "http://a", "engine": {}}])
def test_an_engine_belongs_to_a_judge_in_this_process_and_only_to_one(judge) -> None:
    with pytest.raises(ValueError, match="expected `engine` with url 'in-process', and only with it"):
        build("vlm_yes_no", {"judge": {"model": "m", **judge}})


def test_closing_answers_what_waits_and_then_ends_the_engines_thread(greys) -> None:
    engine = FakeEngine()
    reward = reward_of(engine)
    scores = []
    asking = threading.Thread(target=lambda: scores.append(checked(reward, greys, ["p"] * 4, [{}] * 4)))
    asking.start()
    caller = reward.judge.call
    deadline = time.monotonic() + 60
    while sum(engine.batches) + caller._waiting.qsize() < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    closing = threading.Thread(target=caller.close)
    closing.start()
    while not caller._closed:
        time.sleep(0.01)
    engine.go.set()
    asking.join(20.0)
    closing.join(CLOSE_S / 2)
    assert not closing.is_alive(), "the end came in the middle of a batch and was not seen"
    assert not caller._thread.is_alive()
    assert scores[0][3] == 1.0
    with pytest.raises(RewardError, match="asked after it was closed"):
        checked(reward, greys[:1] + 1, ["p"], [{}])


def test_closing_a_caller_that_was_never_asked_ends_nothing() -> None:
    EngineCaller("engine", FakeEngine).close()


def test_an_answer_that_cannot_be_read_is_a_failure() -> None:
    engine = FakeEngine()
    engine.go.set()
    caller = EngineCaller("engine", lambda: engine)

    def refuse(body: bytes) -> float:
        raise RewardError("unreadable")

    content = b'{"messages": [{"content": [{"image_url": {"url": "data:,"}}]}]}'
    with pytest.raises(RewardError):
        caller(Request(method="POST", path="chat/completions", content=content), refuse)
    assert caller.statistics().failed == 1
    caller.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not PYTHON, reason="no interpreter with vLLM: make vllm")
def test_vllms_own_engine_answers_every_kind_of_question(tmp_path) -> None:
    model = tmp_path / "model"
    subprocess.run([sys.executable, Path(__file__).with_name("tiny_vlm.py"), model], check=True)
    done = subprocess.run(
        [PYTHON, "-m", "tests.rewards.vlm.in_process", str(model)],
        cwd=ROOT,
        env={
            **os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT),
        },
        capture_output=True, text=True, timeout=1500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in ("vlm_yes_no", "vlm_pairwise", "vlm_rubric", "vlm_counting"):
        assert f"{name} 3 scores from 0 to 1" in done.stdout
