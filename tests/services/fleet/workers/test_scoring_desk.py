"""Several groups before several rewards: what makes a group complete, and what one that fails takes with it."""

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from rewards.reward import RewardError
from rollout.types import Behaviour, Prompt, StepImages, WeightsVersion
from services.data.ledger import Claimed
from services.data.wire import BlobRef, GroupEntry, WireBehaviour, WirePrompt, WireVersion
from services.errors import QueueError
from services.fleet.workers.placed_rewards import PlacedReward
from services.fleet.workers.scoreboard import Scoreboard
from services.fleet.workers.scoring_desk import ScoringDesk

BEHAVIOUR = Behaviour(sigmas=(1.0, 0.75, 0.5, 0.0), temperatures=(1.0,) * 3, height=4, width=4)
DEADLINE_S = 20.0


@dataclass
class Brightness:
    """Held up until `go`; fails for the prompt "bad"."""

    go: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    name = "brightness"
    range = (0.0, 1.0)
    required_metadata = ()
    compares = False

    def __call__(self, images, prompts, metadata):
        self.asked.extend(prompts)
        assert self.go.wait(DEADLINE_S)
        if "bad" in prompts:
            raise RewardError("cannot judge")
        return images.mean(axis=(1, 2, 3)).astype(np.float32) / 255


def images(ordinal: int) -> StepImages:
    pixels = np.random.default_rng(ordinal).integers(0, 256, (5, 2, 4, 4, 3), dtype=np.uint8)
    return StepImages(steps=(1, 2), pixels=pixels)


def board(ordinal: int, rewards, text: str = "good") -> Scoreboard:
    blob = BlobRef(uri="redis://blob", sha256="0" * 64, size_bytes=1)
    group = GroupEntry(
        ordinal=ordinal,
        attempt=0,
        prompt=WirePrompt.of(Prompt(id=str(ordinal), text=text)),
        behaviour=WireBehaviour.of(BEHAVIOUR),
        weights=WireVersion.of(WeightsVersion(version=1, update=0, lineage=0, digest="ab")),
        transitions=(0, 1),
        image_steps=(1, 2),
        diversity=(),
        latents=(blob,) * 5,
        images=(blob,) * 5,
        producer="rollout-0",
        created_ms=0,
        timings={},
    )
    return Scoreboard(
        Claimed(entry_id=f"{ordinal}-0", payload=b"", owner="reward-0/1", ordinal=ordinal), group, rewards
    )


class Desk:
    """A desk with a fast reward of two steps and a slow one of the last; small calls, so that answers come in parts."""

    def __init__(self, groups_at_once: int) -> None:
        self.slow, self.fast = Brightness(), Brightness()
        self.fast.go.set()
        self.rewards = (
            PlacedReward("fast", self.fast, lambda _: (1, 2), 3),
            PlacedReward("slow", self.slow, lambda _: (2,), 3),
        )
        self.settled: list[tuple[int, Exception | None]] = []
        self.boards: dict[int, Scoreboard] = {}
        self.desk = ScoringDesk(self.rewards, groups_at_once, self._settle)

    def _settle(self, done: Scoreboard, error: Exception | None) -> None:
        self.settled.append((done.group.ordinal, error))
        self.boards[done.group.ordinal] = done

    def take(self, ordinal: int, text: str = "good") -> None:
        self.desk.take(board(ordinal, self.rewards, text), images(ordinal))


@pytest.fixture
def open_desk():
    made: list[Desk] = []

    def start(groups_at_once: int) -> Desk:
        made.append(Desk(groups_at_once))
        return made[-1]

    yield start
    for desk in made:
        desk.slow.go.set()
        desk.desk.close()


def test_a_group_is_complete_only_with_all_its_rewards(open_desk) -> None:
    desk = open_desk(3)
    desk.take(0)
    desk.take(1)
    assert desk.settled == []
    desk.slow.go.set()
    desk.desk.finish()
    assert sorted(ordinal for ordinal, _ in desk.settled) == [0, 1]
    for ordinal in (0, 1):
        fast, slow = (column.to_rewards() for column in desk.boards[ordinal].entry("reward-0").rewards)
        expected = images(ordinal).pixels.mean(axis=(2, 3, 4)) / 255
        np.testing.assert_allclose(fast.values[:, 1:], expected, rtol=1e-6)
        np.testing.assert_allclose(slow.values[:, 2], expected[:, 1], rtol=1e-6)
        assert fast.scored.tolist() == [False, True, True]
        assert slow.scored.tolist() == [False, False, True]


def test_scores_do_not_depend_on_how_many_groups_are_in_hand(open_desk) -> None:
    found = []
    for groups_at_once in (1, 4):
        desk = open_desk(groups_at_once)
        desk.slow.go.set()
        for ordinal in range(4):
            desk.take(ordinal)
        desk.desk.finish()
        found.append([desk.boards[ordinal].entry("reward-0").rewards for ordinal in range(4)])
    assert found[0] == found[1]


def test_a_group_whose_reward_fails_is_settled_once_with_the_reason_and_the_others_go_on(open_desk) -> None:
    desk = open_desk(4)
    desk.take(0, "bad")
    desk.take(1)
    desk.slow.go.set()
    desk.desk.finish()
    errors = dict(desk.settled)
    assert len(desk.settled) == 2
    assert isinstance(errors[0], RewardError)
    assert errors[1] is None


def test_taking_waits_while_as_many_groups_are_in_hand_as_there_may_be(open_desk) -> None:
    desk = open_desk(2)
    desk.take(0)
    second = threading.Thread(target=desk.take, args=(1,), daemon=True)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    desk.slow.go.set()
    second.join(DEADLINE_S)
    assert not second.is_alive()


def test_what_breaks_while_a_group_is_handed_on_is_raised_to_the_worker(open_desk) -> None:
    desk = open_desk(2)

    def broken(done: Scoreboard, error: Exception | None) -> None:
        raise QueueError("no such run")

    desk.desk = ScoringDesk(desk.rewards, 1, broken)
    desk.slow.go.set()
    with pytest.raises(QueueError, match="no such run"):
        desk.take(0)
