"""Several rewards side by side: what is asked in which call, and who waits for whom."""

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from rewards.lanes import Answer, Lanes
from rewards.remote_wire import Question
from rewards.reward import RewardError

DEADLINE_S = 20.0


@dataclass
class Recorder:
    """Brightness, with a record of its calls; held up until `go`, and failing where a prompt says so."""

    compares: bool = False
    calls: list[list[str]] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    name = "recorder"
    range = (0.0, 1.0)
    required_metadata = ()

    def __call__(self, images, prompts, metadata):
        self.calls.append(list(prompts))
        self.entered.set()
        assert self.go.wait(DEADLINE_S)
        if "bad" in prompts:
            raise RewardError("cannot judge")
        return images.mean(axis=(1, 2, 3)).astype(np.float32) / 255


def question(text: str, count: int, size: int = 4) -> Question:
    images = np.random.default_rng(len(text)).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Question(images=images, prompts=[text] * count, metadata=[{}] * count)


@pytest.fixture
def lanes_of():
    """lanes_of(name=(recorder, batch)) -> Lanes, closed at the end."""
    opened: list[tuple[Lanes, list[Recorder]]] = []

    def build(**rewards) -> Lanes:
        lanes = Lanes(rewards)
        opened.append((lanes, [reward for reward, _ in rewards.values()]))
        return lanes

    yield build
    for lanes, rewards in opened:
        for reward in rewards:
            reward.go.set()
        lanes.close()


def some(lanes: Lanes, count: int) -> list[Answer]:
    stream = lanes.answers()
    return [next(stream) for _ in range(count)]


def test_a_slow_reward_does_not_hold_back_the_others(lanes_of) -> None:
    slow, fast = Recorder(), Recorder()
    fast.go.set()
    lanes = lanes_of(slow=(slow, 64), fast=(fast, 64))
    for key in range(3):
        lanes.put(key, {"slow": question("a", 2), "fast": question("a", 2)})
    assert {(answer.key, answer.reward) for answer in some(lanes, 3)} == {(0, "fast"), (1, "fast"), (2, "fast")}
    slow.go.set()
    assert {(answer.key, answer.reward) for answer in some(lanes, 3)} == {(0, "slow"), (1, "slow"), (2, "slow")}


def test_what_waits_from_several_questions_goes_in_one_call(lanes_of) -> None:
    reward = Recorder()
    lanes = lanes_of(it=(reward, 6))
    lanes.put(0, {"it": question("first", 2)})
    assert reward.entered.wait(DEADLINE_S)
    for key, text in enumerate(("second", "third", "fourth"), start=1):
        lanes.put(key, {"it": question(text, 3)})
    reward.go.set()
    answers = some(lanes, 4)
    assert reward.calls == [["first"] * 2, ["second"] * 3 + ["third"] * 3, ["fourth"] * 3]
    for answer, text in zip(answers, ("first", "second", "third", "fourth"), strict=True):
        expected = question(text, 2 if text == "first" else 3).images.mean(axis=(1, 2, 3)) / 255
        np.testing.assert_allclose(answer.scores, expected, rtol=1e-6)


def test_a_large_question_goes_in_parts_and_each_part_is_answered_at_once(lanes_of) -> None:
    reward = Recorder()
    reward.go.set()
    lanes = lanes_of(it=(reward, 4))
    lanes.put(7, {"it": question("many", 10)})
    answers = some(lanes, 3)
    assert [(answer.key, answer.first, len(answer.scores)) for answer in answers] == [(7, 0, 4), (7, 4, 4), (7, 8, 2)]
    whole = question("many", 10).images.mean(axis=(1, 2, 3)) / 255
    np.testing.assert_allclose(np.concatenate([answer.scores for answer in answers]), whole, rtol=1e-6)


def test_images_of_different_sizes_never_meet_in_a_call(lanes_of) -> None:
    reward = Recorder()
    lanes = lanes_of(it=(reward, 64))
    lanes.put(0, {"it": question("first", 1)})
    assert reward.entered.wait(DEADLINE_S)
    lanes.put(1, {"it": question("small", 2, size=4)})
    lanes.put(2, {"it": question("large", 2, size=8)})
    reward.go.set()
    some(lanes, 3)
    assert reward.calls[1:] == [["small"] * 2, ["large"] * 2]


def test_a_reward_that_compares_is_asked_about_one_whole_question(lanes_of) -> None:
    reward = Recorder(compares=True)
    lanes = lanes_of(it=(reward, 2))
    for key, text in enumerate(("first", "second", "third")):
        lanes.put(key, {"it": question(text, 5)})
    reward.go.set()
    assert [len(answer.scores) for answer in some(lanes, 3)] == [5, 5, 5]
    assert reward.calls == [["first"] * 5, ["second"] * 5, ["third"] * 5]


def test_a_question_that_fails_spoils_no_other_of_its_call(lanes_of) -> None:
    reward = Recorder()
    lanes = lanes_of(it=(reward, 64))
    lanes.put(0, {"it": question("first", 1)})
    assert reward.entered.wait(DEADLINE_S)
    for key, text in enumerate(("good", "bad", "fine"), start=1):
        lanes.put(key, {"it": question(text, 2)})
    reward.go.set()
    answers = {answer.key: answer.scores for answer in some(lanes, 4)}
    assert isinstance(answers[2], RewardError)
    assert len(answers[1]) == len(answers[3]) == 2
    tally = lanes.tallies()["it"]  # the first, the one of three that failed, and each of these again, alone
    assert (tally.calls, tally.failures, tally.images) == (5, 2, 5)
    assert tally.seconds > 0.0


def test_what_is_forgotten_is_not_asked(lanes_of) -> None:
    reward = Recorder()
    lanes = lanes_of(it=(reward, 2))
    lanes.put(0, {"it": question("first", 2)})
    assert reward.entered.wait(DEADLINE_S)
    lanes.put(1, {"it": question("dropped", 2)})
    lanes.put(2, {"it": question("kept", 2)})
    lanes.forget(1)
    reward.go.set()
    assert [answer.key for answer in some(lanes, 2)] == [0, 2]
    assert ["dropped"] * 2 not in reward.calls


def test_closing_ends_the_answers(lanes_of) -> None:
    reward = Recorder()
    reward.go.set()
    lanes = Lanes({"it": (reward, 2)})
    lanes.put(0, {"it": question("first", 2)})
    some(lanes, 1)
    lanes.close()
    assert list(lanes.answers()) == []
