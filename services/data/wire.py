"""The queue's entries: msgpack of frozen structs, decoded strictly. Payloads are blobs that an entry refers to.

    Ticket -> GroupEntry -> ScoredEntry

An entry carries `schema`, its kind and its number; an unknown schema, an unknown field, a missing one or one of
another type is a QueueError that names it, so that two releases in one run are found at the first entry and not
in the loss.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import msgspec
import numpy as np

from rollout.types import Behaviour, Prompt, StepRewards, WeightsVersion
from services.errors import QueueError

SCHEMA = 3  # rises with every change of a struct below
TICKET_SCHEMA = f"ticket/{SCHEMA}"


class BlobRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a payload lies and what it must be."""

    uri: str
    sha256: str  # of the bytes, 64 hexadecimal digits
    size_bytes: int


class WirePrompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rollout.types.Prompt. Tuples in its metadata come back as lists."""

    id: str
    text: str
    metadata: dict[str, Any]
    references: tuple[str, ...]

    @classmethod
    def of(cls, prompt: Prompt) -> WirePrompt:
        """The prompt for the wire."""
        return cls(id=prompt.id, text=prompt.text, metadata=dict(prompt.metadata), references=prompt.references)

    def to_prompt(self) -> Prompt:
        """The prompt off the wire."""
        return Prompt(id=self.id, text=self.text, metadata=self.metadata, references=self.references)


class WireBehaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rollout.types.Behaviour."""

    sigmas: tuple[float, ...]
    temperatures: tuple[float, ...]
    height: int
    width: int
    guidance: float
    kernel: str
    last_step: str
    last_std: float
    branching: tuple[int, ...]

    @classmethod
    def of(cls, behaviour: Behaviour) -> WireBehaviour:
        """The behaviour for the wire."""
        return cls(
            sigmas=behaviour.sigmas,
            temperatures=behaviour.temperatures,
            height=behaviour.height,
            width=behaviour.width,
            guidance=behaviour.guidance,
            kernel=behaviour.kernel,
            last_step=behaviour.last_step,
            last_std=behaviour.last_std,
            branching=behaviour.branching,
        )

    def to_behaviour(self) -> Behaviour:
        """The behaviour off the wire."""
        return Behaviour(
            sigmas=self.sigmas,
            temperatures=self.temperatures,
            height=self.height,
            width=self.width,
            guidance=self.guidance,
            kernel=self.kernel,
            last_step=self.last_step,
            last_std=self.last_std,
            branching=self.branching,
        )


class WireVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rollout.types.WeightsVersion."""

    version: int
    update: int
    lineage: int
    digest: str
    temperatures: tuple[float, ...] = ()

    @classmethod
    def of(cls, version: WeightsVersion) -> WireVersion:
        """The version for the wire."""
        return cls(
            version=version.version,
            update=version.update,
            lineage=version.lineage,
            digest=version.digest,
            temperatures=version.temperatures,
        )

    def to_version(self) -> WeightsVersion:
        """The version off the wire."""
        return WeightsVersion(
            version=self.version,
            update=self.update,
            lineage=self.lineage,
            digest=self.digest,
            temperatures=self.temperatures,
        )


class RewardColumn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rollout.types.StepRewards: one reward's values for a group."""

    name: str
    range: tuple[float, float]  # the scorer's declared one, lowest first
    values: list[list[float]]  # [G][K], exact float32; meaningless where not scored
    scored: list[bool]  # [K]

    @classmethod
    def of(cls, rewards: StepRewards) -> RewardColumn:
        """The rewards for the wire. QueueError for a scored value that is not finite, or shapes that do not fit."""
        column = cls(
            name=rewards.name,
            range=rewards.range,
            values=rewards.values.tolist(),
            scored=rewards.scored.tolist(),
        )
        column.check()
        return column

    def to_rewards(self) -> StepRewards:
        """The rewards off the wire. QueueError for a scored value that is not finite, or shapes that do not fit."""
        self.check()
        return StepRewards(
            name=self.name,
            range=self.range,
            values=np.asarray(self.values, np.float32).reshape(len(self.values), len(self.scored)),
            scored=np.asarray(self.scored, np.bool_),
        )

    def check(self) -> None:
        """QueueError unless values are [G][K], scored is [K] and every scored value is finite."""
        for sample, row in enumerate(self.values):
            if len(row) != len(self.scored):
                raise QueueError(
                    f"reward {self.name!r}: expected {len(self.scored)} steps a sample, "
                    f"found {len(row)} in sample {sample}"
                )
            for step, (value, scored) in enumerate(zip(row, self.scored, strict=True)):
                if scored and not math.isfinite(value):
                    raise QueueError(
                        f"reward {self.name!r}: expected finite values, found {value} in sample {sample}, step {step}"
                    )


class Ticket(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="schema", tag=TICKET_SCHEMA
):
    """The order to draw one group. Written by the admission script on the server."""

    ordinal: int  # the group's name: its place in the run's order of prompts
    attempt: int  # how often this ordinal has been dispatched before
    created_ms: int  # since the Unix epoch


class GroupEntry(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="schema", tag=f"group/{SCHEMA}"
):
    """A drawn group: a RolloutGroup and its StepImages, with the tensors left in blobs."""

    ordinal: int
    attempt: int
    prompt: WirePrompt
    behaviour: WireBehaviour
    weights: WireVersion
    transitions: tuple[int, ...]  # the T transitions in the latents blobs
    diversity: tuple[float, ...]  # of a RolloutGroup
    image_steps: tuple[int, ...]  # the S steps in the images blobs
    latents: tuple[BlobRef, ...]  # one per sample
    images: tuple[BlobRef, ...]  # one per sample
    producer: str  # who drew it, e.g. "rollout-3"
    created_ms: int  # since the Unix epoch
    timings: dict[str, float]  # seconds by name

    @property
    def payload_bytes(self) -> int:
        """Of all its blobs."""
        return sum(ref.size_bytes for ref in (*self.latents, *self.images))


class ScoredEntry(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="schema",
    tag=f"scored/{SCHEMA}",
):
    """A drawn group with all its rewards."""

    group: GroupEntry
    rewards: tuple[RewardColumn, ...]
    producer: str  # who scored it, e.g. "reward-0"
    scored_ms: int  # since the Unix epoch
    timings: dict[str, float]  # seconds by name

    @property
    def payload_bytes(self) -> int:
        """Of the blobs that are left of the group: its latents; the images have been seen."""
        return sum(ref.size_bytes for ref in self.group.latents)


Entry = Ticket | GroupEntry | ScoredEntry
E = TypeVar("E", Ticket, GroupEntry, ScoredEntry)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)  # of the union: only so is a tag required


def encode(entry: Entry) -> bytes:
    """The entry as msgpack. QueueError for what msgpack cannot carry, such as an array in a prompt's metadata."""
    try:
        return _encoder.encode(entry)
    except (TypeError, ValueError, OverflowError) as error:
        raise QueueError(f"expected a {type(entry).__name__} of plain values, found: {error}") from error


def decode_any(payload: bytes) -> Entry:
    """The entry, whatever its kind. QueueError names the field that is missing, unknown or of another type."""
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise QueueError(f"expected an entry of schema {SCHEMA}, found: {error}") from error


def decode(payload: bytes, kind: type[E]) -> E:
    """The entry of that kind. QueueError names the field that is missing, unknown or of another type."""
    try:
        entry = _decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise QueueError(f"expected a {kind.__name__} of schema {SCHEMA}, found: {error}") from error
    if not isinstance(entry, kind):
        raise QueueError(f"expected a {kind.__name__}, found a {type(entry).__name__}")
    return entry
