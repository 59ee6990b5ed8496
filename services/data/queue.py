"""The queue: what waits for whom, on Redis Streams.

    admit -> tickets -> [rollout] -> groups -> [reward] -> scored -> [learner] -> finish_update
      ^                     |                     |                     |               |
      |                     +--------- fail, evict: the place is given back             |
      +----------------------------------------------------------- the places are free -+

    into [ ]: claim; out of it: publish

A group in flight is exactly one entry in exactly one stage, and the hash `running` says which. Every step from one
place to the next is one Lua script, so that whatever dies between two steps leaves a group either here or there. A
script that finds its group elsewhere, since somebody else was faster or the run began anew, changes nothing; this
is what makes every call safe to repeat.

Admission bounds how far the rollouts run ahead: consumed + running < (max_staleness + updates_done + 1) *
groups_per_update. Nothing is ever trimmed, and no group is discarded for being slow.

The scripts keep to Redis 7.0. None of them knows a lease yet: the fencing epoch will be one more argument and one
more check in places.lua.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, cast

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import ResponseError

from services.data.keys import run_key
from services.data.ledger import (
    STAGES,
    Claimed,
    Ledger,
    QueueStatistics,
    Stage,
    StageStatistics,
    accounting_holds,
)
from services.data.server import reaching_server, without_retry
from services.data.wire import TICKET_SCHEMA
from services.errors import QueueError, ServerUnavailable

__all__ = ["Claimed", "Fate", "Ledger", "Queue", "QueueStatistics", "Stage", "StageStatistics", "accounting_holds"]

MAX_BLOCK_MS = 10_000  # less than a connection's timeout, which would else end the wait as an error

Fate = Literal["failed", "evicted", "dead", "gone"]

_Statistics = tuple[list[bytes], list[bytes], int, int, list[tuple[bytes, int, int, int]]]  # statistics.lua's reply
_KEYS = (*STAGES, "dead", "ledger", "running", "holes", "attempts", "failures", "evictions", "stop")
_FAILURES: dict[Stage, str] = {stage: f"failures_{stage}" for stage in STAGES}  # fields of the ledger
_NEXT: dict[Stage, Stage] = {"tickets": "groups", "groups": "scored"}
_SCRIPTS = ("begin", "admit", "publish", "give_back", "finish_update", "statistics")


@dataclass(slots=True)
class _Reading:
    """How far a consumer has read its stage."""

    last_id: str = "0"
    behind: bool = True  # entries after last_id may be its own already: claimed before a restart or a lost answer


class Queue:
    """One run's queue. Cheap; one for every thread that claims.

    redis: from server.connect. run: the run's name, part of every key.
    Every method raises ServerUnavailable if the server does not answer, and QueueError if the run has no ledger
    on it: it has not begun, or the server lost its memory.
    """

    def __init__(self, redis: Redis, run: str) -> None:
        self._redis = redis
        self._claims = without_retry(redis)
        self._run = run
        self._keys = [run_key(run, name) for name in _KEYS]
        self._scripts: dict[str, Script] = {name: redis.register_script(_source(name)) for name in _SCRIPTS}
        self._readings: dict[tuple[Stage, str], _Reading] = {}

    def begin(self, ledger: Ledger) -> None:
        """Drop every key of the run, blobs and weights too, and start it from the ledger.

        Only the learner calls it, before it publishes weights. A worker that still draws for the former start is
        not disturbed: what it publishes counts as a duplicate.
        """
        with reaching_server(QueueError, f"begin run {self._run!r}"):
            queue_keys = {key.encode() for key in self._keys}
            for key in self._redis.scan_iter(match=run_key(self._run, "*"), count=1000):
                if key not in queue_keys:  # those the script replaces in one step, under waiting workers' hands
                    self._redis.unlink(key)
        start = {
            "groups_per_update": ledger.groups_per_update,
            "max_staleness": ledger.max_staleness,
            "total_groups": ledger.total_groups,
            "max_attempts": ledger.max_attempts,
            "updates_done": ledger.updates_done,
            "frontier": ledger.frontier,
            "dispatched": ledger.num_consumed,
            "consumed": ledger.num_consumed,
        } | dict.fromkeys(("evicted", "failed", "dead", "duplicates", *_FAILURES.values()), 0)
        pairs = [item for field in start.items() for item in field]
        self._call("begin", len(start), *pairs, *ledger.holes())

    def admit(self, now_ms: int) -> int:
        """Dispatch as many groups as the bound allows; their number. Anyone may call it, at any time.

        now_ms: milliseconds since the Unix epoch, written into the tickets.
        """
        return cast(int, self._call("admit", now_ms, TICKET_SCHEMA))

    def claim(self, stage: Stage, consumer: str, count: int, block_ms: int) -> list[Claimed]:
        """At most `count` entries of the stage, waiting at most block_ms for the first; [] if there is none.

        consumer: a name that outlives the process, such as "rollout-3": the first calls of a restarted consumer
        return what it had claimed before. Within one Queue no entry is returned twice. block_ms: 0 does not wait;
        ValueError above MAX_BLOCK_MS.
        """
        if not 0 <= block_ms <= MAX_BLOCK_MS:
            raise ValueError(f"expected 0 <= block_ms <= {MAX_BLOCK_MS}, found {block_ms}")
        reading = self._readings.setdefault((stage, consumer), _Reading())
        claimed: list[Claimed] = []
        try:
            if reading.behind:
                claimed = self._read(stage, consumer, count, None, reading.last_id)
                reading.behind = bool(claimed)
            if not reading.behind:
                claimed = self._read(stage, consumer, count, block_ms or None, ">")
        except ServerUnavailable:
            reading.behind = True  # the server may have given us entries in the answer that was lost
            raise
        if claimed:
            reading.last_id = claimed[-1].entry_id
        return claimed

    def publish(self, stage: Stage, claimed: Claimed, entry_bytes: bytes, ordinal: int, attempt: int) -> bool:
        """Put the claimed entry's result into the next stage and settle the entry, in one step.

        False if the result came too late: the group has moved on, was given back, or the run began anew; then the
        caller drops the blobs that it stored for this entry. The same call again, with equal bytes, is no
        duplicate. QueueError if the claimed entry is of another ordinal or attempt.
        """
        if stage not in _NEXT:
            raise ValueError(f"expected one of {', '.join(_NEXT)}, found {stage!r}: use finish_update")
        moved = self._call("publish", stage, _NEXT[stage], claimed.entry_id, ordinal, attempt, entry_bytes)
        return bool(moved)

    def fail(self, stage: Stage, claimed: Claimed, ordinal: int, reason: str, error: str = "") -> Fate:
        """Give the group's place back after a failure of its own; its fate.

        "failed": it is dispatched again, before any new group. "dead": it was the ledger's max_attempts-th
        failure, so that it went to the dead letters, with stage, reason, error and payload, and its place to the
        next ordinal. "gone": the entry is settled already. Not for a worker that was lost: that is an
        eviction.
        """
        return self._give_back("failed", stage, claimed, ordinal, reason, error)

    def evict(self, claimed: Claimed, ordinal: int, reason: str, stage: Stage = "scored") -> Fate:
        """Give the group's place back through no fault of its own, counted by reason; its fate, "evicted" or
        "gone".

        It is dispatched again, before any new group, as often as it takes. reason: one of few words, such as
        "lineage", since each is counted apart.
        """
        return self._give_back("evicted", stage, claimed, ordinal, reason, "")

    def finish_update(self, update: int, claimed: Sequence[Claimed], ordinals: Sequence[int]) -> None:
        """Consume the update's scored entries, all or none, and count the update: the places are free for admit.

        update: updates_done + 1. ordinals: of the entries, in their order. The same call again changes nothing.
        QueueError if the update is out of turn or an entry is not in the scored stage with its ordinal.
        """
        if len(set(ordinals)) != len(ordinals):
            raise ValueError(f"expected every ordinal once, found {sorted(ordinals)}")
        ids = [entry.entry_id for entry in claimed]
        self._call("finish_update", update, *(item for pair in zip(ids, ordinals, strict=True) for item in pair))

    def statistics(self) -> QueueStatistics:
        """The run's counts, all of one moment."""
        ledger_reply, evictions_reply, in_flight, holes, stages = cast(_Statistics, self._call("statistics"))
        ledger = _counts(ledger_reply)
        return QueueStatistics(
            stages={
                cast(Stage, name.decode()): StageStatistics(
                    entries=entries, pending=pending, ready=entries - pending, oldest_age_s=age_ms / 1000
                )
                for name, entries, pending, age_ms in sorted(stages, key=lambda row: STAGES.index(row[0].decode()))
            },
            evictions=_counts(evictions_reply),
            in_flight=in_flight,
            holes=holes,
            dispatched=ledger["dispatched"],
            consumed=ledger["consumed"],
            evicted=ledger["evicted"],
            failed=ledger["failed"],
            failures={stage: ledger[field] for stage, field in _FAILURES.items()},
            dead=ledger["dead"],
            frontier=ledger["frontier"],
            updates_done=ledger["updates_done"],
            duplicates=ledger["duplicates"],
        )

    def request_stop(self, reason: str) -> None:
        """Ask all workers of the run to stop; they look between two groups. The first reason stays until begin."""
        if not reason:
            raise ValueError("expected a reason to stop, found an empty one")
        with reaching_server(QueueError, f"stop run {self._run!r}"):
            self._redis.set(run_key(self._run, "stop"), reason, nx=True)

    def stop_requested(self) -> str | None:
        """Why the run was asked to stop; None while it was not."""
        with reaching_server(QueueError, f"read the stop key of run {self._run!r}"):
            reason = cast("bytes | None", self._redis.get(run_key(self._run, "stop")))
        return None if reason is None else reason.decode()

    def _give_back(self, fate: Fate, stage: Stage, claimed: Claimed, ordinal: int, reason: str, error: str) -> Fate:
        reply = self._call("give_back", fate, stage, claimed.entry_id, ordinal, reason, error)
        return cast(Fate, cast(bytes, reply).decode())

    def _read(self, stage: Stage, consumer: str, count: int, block_ms: int | None, after: str) -> list[Claimed]:
        """The stage's entries after an id, of the consumer's own pending ones; or, after ">", new ones."""
        key = run_key(self._run, stage)
        with reaching_server(QueueError, f"claim from {key}; a run without its streams has not begun"):
            reply: Any = self._claims.xreadgroup(stage, consumer, {key: after}, count=count, block=block_ms)
        entries = reply[0][1] if reply else []
        return [Claimed(entry_id=entry_id.decode(), payload=fields[b"payload"]) for entry_id, fields in entries]

    def _call(self, script: str, *arguments: str | int | bytes) -> object:
        with reaching_server(QueueError, f"{script} in run {self._run!r}"):
            try:
                return self._scripts[script](keys=self._keys, args=arguments)
            except ResponseError as error:
                if "NOLEDGER" not in str(error):
                    raise
                raise QueueError(
                    f"{script}: expected the ledger of run {self._run!r}, found none: "
                    "the run has not begun on this server, or the server lost its memory"
                ) from error


def _source(script: str) -> str:
    """The script's Lua text with what it builds on."""
    names = ["keys", script] if script == "begin" else ["keys", "places", script]
    folder = files("services.data") / "scripts"
    return "\n".join((folder / f"{name}.lua").read_text(encoding="utf-8") for name in names)


def _counts(reply: list[bytes]) -> dict[str, int]:
    """HGETALL's reply out of a script: names and numbers in turn."""
    return {name.decode(): int(number) for name, number in zip(reply[::2], reply[1::2], strict=True)}
