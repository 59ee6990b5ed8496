import msgspec
import numpy as np
import pytest

from rollout.types import Behaviour, Prompt, StepRewards, WeightsVersion
from services.data.wire import (
    BlobRef,
    GroupEntry,
    RewardColumn,
    ScoredEntry,
    Ticket,
    WireBehaviour,
    WirePrompt,
    WireVersion,
    decode,
    encode,
)
from services.errors import QueueError

PROMPT = Prompt(id="p7", text="a red 7", metadata={"target": "7", "colors": ["red"]}, references=("a.png",))
BEHAVIOUR = Behaviour(
    sigmas=(1.0, 0.7, 0.0),
    temperatures=(1.0, 0.3),
    height=64,
    width=32,
    guidance=3.5,
    kernel="flow_sde",
    last_step="floor",
    last_std=0.1,
    branching=(2, 3),
)
VERSION = WeightsVersion(version=58, update=51, lineage=2, digest="ab" * 32)


def rewards(**changes):
    values = {
        "name": "ocr",
        "range": (-0.5, 1.5),
        "values": np.array([[0.1, np.nan], [1 / 3, np.nan]], np.float32),
        "scored": np.array([True, False]),
    }
    return StepRewards(**values | changes)


def group() -> GroupEntry:
    blob = BlobRef(uri="redis://{run}:blob:7.0", sha256="0" * 64, size_bytes=12)
    return GroupEntry(
        ordinal=7,
        attempt=1,
        prompt=WirePrompt.of(PROMPT),
        behaviour=WireBehaviour.of(BEHAVIOUR),
        weights=WireVersion.of(VERSION),
        transitions=(0,),
        diversity=(0.5, 0.25),
        image_steps=(1, 2),
        latents=(blob, blob),
        images=(blob, blob),
        producer="rollout-3",
        created_ms=1_760_000_000_123,
        timings={"sample_s": 0.5},
    )


def scored() -> ScoredEntry:
    return ScoredEntry(
        group=group(), rewards=(RewardColumn.of(rewards()),), producer="reward-0", scored_ms=1, timings={}
    )


@pytest.mark.parametrize("entry", [Ticket(ordinal=3, attempt=0, created_ms=9), group()])
def test_an_entry_comes_back_as_it_was_sent(entry) -> None:
    assert decode(encode(entry), type(entry)) == entry


def test_nouns_come_back_as_they_were_sent() -> None:
    read = decode(encode(group()), GroupEntry)
    assert read.prompt.to_prompt() == PROMPT
    assert read.behaviour.to_behaviour() == BEHAVIOUR
    assert read.weights.to_version() == VERSION


def test_rewards_come_back_bit_for_bit_with_unscored_steps_masked() -> None:
    [column] = decode(encode(scored()), ScoredEntry).rewards
    read = column.to_rewards()
    assert (read.name, read.range, read.span) == ("ocr", (-0.5, 1.5), 2.0)
    assert read.values.tobytes() == rewards().values.tobytes()
    assert (read.values.dtype, read.scored.dtype) == (np.float32, np.bool_)
    assert read.scored.tolist() == [True, False]


def test_a_scored_reward_that_is_not_finite_never_travels() -> None:
    with pytest.raises(QueueError, match="'ocr': expected finite values, found nan in sample 0, step 1"):
        RewardColumn.of(rewards(scored=np.array([True, True])))
    with pytest.raises(QueueError, match="expected 1 steps a sample, found 2 in sample 0"):
        RewardColumn.of(rewards(scored=np.array([True])))


def changed(entry, **changes):
    fields = msgspec.msgpack.decode(encode(entry))
    return msgspec.msgpack.encode({key: value for key, value in (fields | changes).items() if value is not ...})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"weights": ...}, "missing required field `weights`"),
        ({"epoch": 3}, "unknown field `epoch`"),
        ({"ordinal": "7"}, r"Expected `int`, got `str` - at `\$.ordinal`"),
        (
            {"prompt": {"id": "p7", "text": "", "metadata": {}}},
            r"missing required field `references` - at `\$.prompt`",
        ),
        ({"schema": ...}, "missing required field `schema`"),
        ({"schema": "group/999"}, r"Invalid value 'group/999' - at `\$.schema`"),
    ],
)
def test_an_entry_of_another_shape_is_refused_by_the_name_of_its_field(changes, complaint) -> None:
    with pytest.raises(QueueError, match=complaint):
        decode(changed(group(), **changes), GroupEntry)


def test_an_entry_of_another_kind_is_refused() -> None:
    with pytest.raises(QueueError, match="expected a GroupEntry, found a Ticket"):
        decode(encode(Ticket(ordinal=0, attempt=0, created_ms=0)), GroupEntry)


@pytest.mark.parametrize("payload", [b"", b"\x80\x04K\x01."])
def test_bytes_that_are_no_entry_are_refused(payload) -> None:
    with pytest.raises(QueueError, match="expected a Ticket of schema"):
        decode(payload, Ticket)


def test_metadata_that_the_wire_cannot_carry_is_refused() -> None:
    prompt = WirePrompt.of(Prompt(id="p", text="", metadata={"box": object()}))
    with pytest.raises(QueueError, match=r"expected a GroupEntry of plain values, found: .*object"):
        encode(msgspec.structs.replace(group(), prompt=prompt))
