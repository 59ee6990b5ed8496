"""Orphans: blobs that no group in flight names, left by workers that died between storing and publishing.

A blob is stored before its group is published, so that a young orphan may yet find its group. One that was an orphan
for longer than any lease lasts cannot: whoever stored it has lost the claim.
"""

from __future__ import annotations

from typing import cast

from redis import Redis

from services.data.blobs import BlobStore
from services.data.keys import run_key
from services.data.server import reaching_server
from services.data.wire import BlobRef, GroupEntry, ScoredEntry, decode_any
from services.errors import QueueError

BATCH = 1000
"""Blobs deleted in one call."""


class OrphanSweeper:
    """Finds orphans and deletes them when their time is over. Pure but for store and server: the caller has the clock.

    grace_s: how long a blob must have been an orphan, several leases.
    """

    def __init__(self, store: BlobStore, redis: Redis, run: str, grace_s: float) -> None:
        self._store = store
        self._redis = redis
        self._run = run
        self._grace_s = grace_s
        self._since: dict[str, float] = {}  # orphan's URI -> when it was first seen as one

    def sweep(self, now_s: float) -> int:
        """Look once; how many blobs were deleted. now_s: of a monotonic clock. Raises as store and queue do, and
        QueueError where an entry cannot be read, since nobody knows what it names.
        """
        stored = set(self._store.uris())
        live = self.live()  # after the stored ones: what is published between the two is no orphan
        self._since = {uri: self._since.get(uri, now_s) for uri in stored - live}
        over = [uri for uri, since in self._since.items() if now_s - since >= self._grace_s]
        for start in range(0, len(over), BATCH):
            chunk = over[start : start + BATCH]
            self._store.delete([BlobRef(uri=uri, sha256="", size_bytes=0) for uri in chunk])
        for uri in over:
            del self._since[uri]
        return len(over)

    def live(self) -> set[str]:
        """The URIs that groups in flight name."""
        pipeline = self._redis.pipeline(transaction=True)
        for stage in ("groups", "scored"):
            pipeline.xrange(run_key(self._run, stage))
        with reaching_server(QueueError, f"read the groups in flight of run {self._run!r}"):
            streams = cast("list[list[tuple[bytes, dict[bytes, bytes]]]]", pipeline.execute())
        entries = [decode_any(fields[b"payload"]) for stream in streams for _, fields in stream]
        groups = [entry.group if isinstance(entry, ScoredEntry) else entry for entry in entries]
        return {ref.uri for group in groups if isinstance(group, GroupEntry) for ref in (*group.latents, *group.images)}
