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
groups_per_update; and how many groups, and bytes of payloads, may be in flight at all. Nothing is ever trimmed, and no
group is discarded for being slow.

Whose is a claim
    An owner is a worker's slot and incarnation, "rollout-3/9f2c51" (new_owner). What it claims is leased to it:

        worker      Heartbeat(queue, owner, lease_s): a thread that calls renew(owner) every third of a lease
        controller  Sweeping(queue, lease_s): calls sweep, which takes away what was not renewed; both in lease.py
        supervisor  release(owner), or release(slot): the process is known to be gone, take all its claims at once

    What is taken away is delivered to the next worker under a new entry id, in the same attempt. So the former owner,
    should it come back, holds an id that is nobody's: its publish is False, its fail "gone". This is the fence; the
    scripts check the owner besides.

Who commands the run
    begin and reconcile take the run over: they raise its epoch, and from then on every call of a Queue that took it
    over before raises Superseded. What a worker does carries no epoch, its claims are its rights. Only the commander
    calls finish_update, evict, release and sweep; weights are published under its epoch (services/data/weights.py).

        begin(ledger)      everything anew: a first start
        reconcile(ledger)  go on from a checkpoint with what the server still has, or, if it lost its memory, without

    RunMissing from any call means that the server has no such run, or has come back with an older memory of it (an
    append-only file may lack the last seconds): workers wait, the commander reconciles.

The scripts keep to Redis 7.0.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from redis import Redis
from redis.exceptions import ResponseError

from services.data.keys import run_key
from services.data.ledger import (
    STAGES,
    Claimed,
    Ledger,
    Lost,
    QueueStatistics,
    Stage,
    StageStatistics,
    accounting_holds,
)
from services.data.memory import ServerMemory, read_memory
from services.data.scripted import KEYS, Scripts
from services.data.server import reaching_server, without_retry
from services.data.wire import TICKET_SCHEMA
from services.errors import QueueError, RunMissing, ServerUnavailable

__all__ = [
    "Claimed", "Fate", "Ledger", "Lost", "Queue", "QueueStatistics", "Stage", "StageStatistics", "accounting_holds",
    "new_owner",
]  # fmt: skip

MAX_BLOCK_MS = 10_000  # less than a connection's timeout, which would else end the wait as an error

Fate = Literal["failed", "evicted", "dead", "gone"]

_Statistics = tuple[list[bytes], list[bytes], int, int, list[tuple[bytes, int, int, int]]]  # statistics.lua's reply
_LostRows = list[tuple[bytes, bytes, bytes, bytes]]  # of lose() in places.lua
_NEXT: dict[Stage, Stage] = {"tickets": "groups", "groups": "scored"}
_SCRIPTS = ("take_over", "admit", "publish", "give_back", "finish_update", "renew", "sweep", "release", "statistics")


def new_owner(slot: str) -> str:
    """The name of a new incarnation of a worker's slot, such as "rollout-3"; never given twice."""
    return f"{slot}/{secrets.token_hex(4)}"


@dataclass(slots=True)
class _Reading:
    """How far a consumer has read its stage."""

    last_id: str = "0"
    behind: bool = True  # entries after last_id may be its own already: claimed before a restart or a lost answer


class Queue:
    """One run's queue. Cheap; one for every thread that claims.

    redis: from server.connect. run: the run's name, part of every key.
    Every method raises ServerUnavailable if the server does not answer, and RunMissing if the run has no ledger
    on it: it has not begun, or the server lost its memory.
    """

    def __init__(self, redis: Redis, run: str) -> None:
        self._redis = redis
        self._claims = without_retry(redis)
        self._run = run
        self._scripts = Scripts(redis, run, _SCRIPTS)
        self._readings: dict[tuple[Stage, str], _Reading] = {}
        self._epoch: int | None = None
        self._taking = secrets.token_hex(8)  # names a take-over until it is known to have happened

    @property
    def epoch(self) -> int | None:
        """The epoch of the take-over that this object did; None if it never did one, as a worker's."""
        return self._epoch

    def begin(self, ledger: Ledger) -> int:
        """Take the run over and start it from the ledger with nothing else: blobs and weights go, too. Its epoch.

        Call it before weights are published. A worker that still draws for the former start is not disturbed: what
        it publishes counts as a duplicate. Superseded if another has taken the run over since this object did.
        """
        epoch = self._take_over("begin", ledger)
        with reaching_server(QueueError, f"begin run {self._run!r}"):
            queue_keys = {run_key(self._run, name).encode() for name in KEYS}
            for key in self._redis.scan_iter(match=run_key(self._run, "*"), count=1000):
                if key not in queue_keys:  # those the script replaced in one step, under waiting workers' hands
                    self._redis.unlink(key)
        return epoch

    def reconcile(self, ledger: Ledger) -> int:
        """Take the run over at a checkpoint and keep what the server has of it; the epoch.

        What the checkpoint has consumed is settled, what was consumed after it is rolled back and drawn again, what
        nobody has heard of is drawn first, and what the former learner had claimed comes again. Tickets and groups
        that workers hold stay theirs if this object has commanded the run before, and else come again, too. Entries
        drawn by weights outside the surviving lineage are the caller's to evict. On a server without the run it
        starts from the ledger. Superseded as begin.
        """
        return self._take_over("reconcile", ledger)

    def _take_over(self, manner: str, ledger: Ledger) -> int:
        fields = {
            "groups_per_update": ledger.groups_per_update,
            "max_staleness": ledger.max_staleness,
            "total_groups": ledger.total_groups,
            "max_attempts": ledger.max_attempts,
            "max_losses": ledger.max_losses,
            "max_groups": ledger.max_groups,
            "max_payload_bytes": ledger.max_payload_bytes,
            "updates_done": ledger.updates_done,
            "frontier": ledger.frontier,
            "consumed": ledger.num_consumed,
        }
        pairs = [item for field in fields.items() for item in field]
        bounds = [bound for interval in ledger.consumed for bound in interval]
        self._epoch = cast(int, self._call("take_over", manner, self._taking, len(fields), *pairs, *bounds))
        self._taking = secrets.token_hex(8)
        return self._epoch

    def admit(self, now_ms: int) -> int:
        """Dispatch as many groups as the bounds allow; their number. It may be called at any time.

        Besides staleness, the ledger's max_groups and max_payload_bytes bound it. ConfigError if the groups of one
        update do not fit into the bytes together, so that none of them could ever go on. now_ms: milliseconds since
        the Unix epoch, written into the tickets.
        """
        return cast(int, self._call("admit", now_ms, TICKET_SCHEMA))

    def claim(self, stage: Stage, owner: str, count: int, block_ms: int) -> list[Claimed]:
        """At most `count` entries of the stage, waiting at most block_ms for the first; [] if there is none.

        owner: from new_owner, one for every process. Within one Queue no entry is returned twice; a Queue that knows
        nothing of the owner's claims returns those first. block_ms: 0 does not wait; ValueError above MAX_BLOCK_MS.
        """
        if not 0 <= block_ms <= MAX_BLOCK_MS:
            raise ValueError(f"expected 0 <= block_ms <= {MAX_BLOCK_MS}, found {block_ms}")
        reading = self._readings.setdefault((stage, owner), _Reading())
        claimed: list[Claimed] = []
        try:
            if reading.behind:
                claimed = self._read(stage, owner, count, None, reading.last_id)
                reading.behind = bool(claimed)
            if not reading.behind:
                claimed = self._read(stage, owner, count, block_ms or None, ">")
        except (ServerUnavailable, RunMissing):
            reading.behind = True  # the server may have given us entries in the answer that was lost
            raise
        if claimed:
            reading.last_id = claimed[-1].entry_id
        return claimed

    def recall(self, owner: str) -> None:
        """The owner has dropped claims unsettled, say on an error: its next calls of claim return them again.

        Without this a worker whose heartbeat goes on would hold for ever what it does not work on.
        """
        for stage in STAGES:
            self._readings[stage, owner] = _Reading()

    def publish(
        self, stage: Stage, claimed: Claimed, entry_bytes: bytes, ordinal: int, attempt: int, payload_bytes: int = 0
    ) -> bool:
        """Put the claimed entry's result into the next stage and settle the entry, in one step.

        payload_bytes: of the blobs that the result refers to, charged to the run while the group is in flight.
        False if the result came too late: the claim was lost, the group has moved on, or the run began anew; then
        the caller drops the blobs that it stored for this entry. The same call again, with equal bytes, is no
        duplicate. QueueError if the claimed entry is of another ordinal or attempt.
        """
        if stage not in _NEXT:
            raise ValueError(f"expected one of {', '.join(_NEXT)}, found {stage!r}: use finish_update")
        held = claimed.entry_id, claimed.owner
        moved = self._call("publish", stage, _NEXT[stage], *held, ordinal, attempt, entry_bytes, payload_bytes)
        return bool(moved)

    def fail(self, stage: Stage, claimed: Claimed, ordinal: int, reason: str, error: str = "") -> Fate:
        """Give the group's place back after a failure of its own; its fate.

        "failed": it is dispatched again, before any new group. "dead": it was the ledger's max_attempts-th
        failure, so that it went to the dead letters, with stage, reason, error and payload, and its place to the
        next ordinal. "gone": the claim was lost, or the entry is settled already. Not for a worker that was lost:
        that is a release.
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
        RunMissing if the server lags behind the update or does not know an entry as claimed: it came back with an
        older memory. QueueError if the update is past or an entry is another ordinal's.
        """
        if len(set(ordinals)) != len(ordinals):
            raise ValueError(f"expected every ordinal once, found {sorted(ordinals)}")
        rows = [(entry.entry_id, entry.owner, ordinal) for entry, ordinal in zip(claimed, ordinals, strict=True)]
        self._call("finish_update", update, *(item for row in rows for item in row))

    def renew(self, owner: str) -> frozenset[str]:
        """Renew the lease of everything that the owner has claimed; the entry ids that it still holds."""
        return frozenset(entry_id.decode() for entry_id in cast("list[bytes]", self._call("renew", owner)))

    def sweep(self, lease_s: float) -> tuple[Lost, ...]:
        """Take away every claim of a ticket or a group that was not renewed for lease_s, by the server's clock.

        Call it several times in every lease: after a gap of half a lease (the server was gone or paused, nobody could
        renew) it takes nothing away for one whole lease, and so it does on its first call.
        """
        return _lost(self._call("sweep", round(1000 * lease_s)))

    def release(self, owner: str, reason: str = "worker lost") -> tuple[Lost, ...]:
        """Take away all claims of an owner that is known to be gone, at once. owner: or a slot, such as "rollout-3",
        for every incarnation of it. reason: for the dead letter, should it come to that.
        """
        return _lost(self._call("release", owner, reason))

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
            failures={stage: ledger[f"failures_{stage}"] for stage in STAGES},
            lost={stage: ledger[f"lost_{stage}"] for stage in STAGES},
            dead=ledger["dead"],
            frontier=ledger["frontier"],
            updates_done=ledger["updates_done"],
            payload_bytes=ledger["payload_bytes"],
            duplicates=ledger["duplicates"],
        )

    def memory(self) -> ServerMemory | None:
        """How full the server is; None where the user has no right to ask."""
        return read_memory(self._redis)

    def close(self) -> None:
        """Close the connections that claims were made on; the client that the queue was given stays open."""
        self._claims.close()

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
        reply = self._call("give_back", fate, stage, claimed.entry_id, claimed.owner, ordinal, reason, error)
        return cast(Fate, cast(bytes, reply).decode())

    def _read(self, stage: Stage, owner: str, count: int, block_ms: int | None, after: str) -> list[Claimed]:
        """The stage's entries after an id, of the consumer's own pending ones; or, after ">", new ones."""
        key = run_key(self._run, stage)
        with reaching_server(QueueError, f"claim from {key}"):
            try:
                reply: Any = self._claims.xreadgroup(stage, owner, {key: after}, count=count, block=block_ms)
            except ResponseError as error:
                if not {"NOGROUP", "UNBLOCKED"} & set(str(error).split()):
                    raise
                raise RunMissing(
                    f"could not claim from {key}: the run has not begun on this server: {error}"
                ) from error
        return [
            Claimed(
                entry_id=entry_id.decode(), payload=fields[b"payload"], owner=owner, ordinal=int(fields[b"ordinal"])
            )
            for entry_id, fields in (reply[0][1] if reply else [])
        ]

    def _call(self, script: str, *arguments: str | int | bytes) -> object:
        return self._scripts.call(script, self._epoch, *arguments)


def _lost(reply: object) -> tuple[Lost, ...]:
    rows = cast(_LostRows, reply)
    return tuple(
        Lost(
            stage=cast(Stage, stage.decode()),
            ordinal=int(ordinal),
            owner=owner.decode(),
            fate=cast(Any, fate.decode()),
        )
        for stage, ordinal, owner, fate in rows
    )


def _counts(reply: list[bytes]) -> dict[str, int]:
    """HGETALL's reply out of a script: names and numbers in turn; what is no number is left out."""
    pairs = zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(): int(value) for name, value in pairs if value.isdigit()}
