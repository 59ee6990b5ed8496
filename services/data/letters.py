"""The dead letters: groups that failed, or cost workers, too often, with the reason and what they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from redis import Redis

from services.data.keys import run_key
from services.data.ledger import Stage
from services.data.scripted import Scripts
from services.data.server import reaching_server
from services.data.wire import Entry, GroupEntry, ScoredEntry, decode_any
from services.errors import QueueError


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One group's last entry, and why it is the last."""

    ordinal: int
    attempt: int
    stage: Stage  # where it failed last
    reason: str
    error: str
    unix_time: float  # of its burial, by the server's clock
    payload: bytes  # the entry that could not be served

    def entry(self) -> Entry | None:
        """The entry; None if no release that we know wrote it."""
        try:
            return decode_any(self.payload)
        except QueueError:
            return None

    def group(self) -> GroupEntry | None:
        """The group as it was drawn; None if it never was."""
        entry = self.entry()
        return entry.group if isinstance(entry, ScoredEntry) else entry if isinstance(entry, GroupEntry) else None

    def described(self) -> dict[str, Any]:
        """Everything about it as plain values, for people."""
        entry = self.entry()
        known = {"ordinal": self.ordinal, "attempt": self.attempt, "stage": self.stage, "unix_time": self.unix_time}
        told = {"reason": self.reason, "error": self.error}
        return {**known, **told, "entry": None if entry is None else msgspec.to_builtins(entry)}


class DeadLetters:
    """One run's dead letters. Raises as Queue does."""

    def __init__(self, redis: Redis, run: str) -> None:
        self._redis = redis
        self._key = run_key(run, "dead")
        self._scripts = Scripts(redis, run, ("retry", "drop"))

    def all(self) -> tuple[Letter, ...]:
        """The letters, oldest first."""
        with reaching_server(QueueError, f"read {self._key}"):
            entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", self._redis.xrange(self._key))
        return tuple(
            Letter(
                ordinal=int(fields[b"ordinal"]),
                attempt=int(fields[b"attempt"]),
                stage=cast(Stage, fields[b"stage"].decode()),
                reason=fields[b"reason"].decode(errors="replace"),
                error=fields[b"error"].decode(errors="replace"),
                unix_time=int(entry_id.partition(b"-")[0]) / 1000,
                payload=fields[b"payload"],
            )
            for entry_id, fields in entries
        )

    def retry(self, ordinals: Sequence[int]) -> tuple[int, ...]:
        """Have these groups drawn again, before any new one and with a clean record; those that had a letter."""
        return self._called("retry", ordinals)

    def drop(self, ordinals: Sequence[int]) -> tuple[int, ...]:
        """Throw these letters away: their groups are never trained. Those that had a letter."""
        return self._called("drop", ordinals)

    def _called(self, script: str, ordinals: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(ordinal) for ordinal in cast("list[bytes]", self._scripts.call(script, None, *ordinals)))
