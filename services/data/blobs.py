"""Payloads beside the queue: a store takes blobs and gives references, which travel in the entries.

A reference's URI is never used twice, so that the loser of two workers that drew the same group deletes its own
blobs and not the winner's. Every blob is verified when it is read. Who consumes a group deletes its blobs, and a
sweeper (orphans.py) those that nobody consumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from redis import Redis

from services.data.blob_refs import new_refs, require_prefix, verified
from services.data.keys import run_key
from services.data.ray_blobs import RayBlobs
from services.data.server import reaching_server
from services.data.wire import BlobRef
from services.errors import BlobError, ConfigError


class BlobStore(Protocol):
    """Keeps payloads until they are deleted. Raises BlobError, or ServerUnavailable where there is a server."""

    def put(self, names: Sequence[str], blobs: Sequence[bytes | memoryview]) -> tuple[BlobRef, ...]:
        """Store the blobs; their references. names: to read, such as "7/0/latents/3"; need not be unique."""
        ...

    def get(self, refs: Sequence[BlobRef]) -> list[bytes]:
        """The blobs, in order and verified. BlobMissing or BlobCorrupt name the first that is not."""
        ...

    def delete(self, refs: Sequence[BlobRef]) -> None:
        """Delete the blobs that are there."""
        ...

    def uris(self) -> Iterator[str]:
        """The URIs of all blobs of the run."""
        ...

    def close(self) -> None:
        """The run is over: end whatever the store started for it."""
        ...


class RedisBlobs:
    """Payloads in the run's Redis server, one round trip a call: the fastest where all workers share a machine."""

    def __init__(self, redis: Redis, run: str) -> None:
        self._redis = redis
        self._prefix = f"redis://{run_key(run, 'blob')}:"

    def put(self, names: Sequence[str], blobs: Sequence[bytes | memoryview]) -> tuple[BlobRef, ...]:
        """Store the blobs under keys of the run, which begin drops."""
        refs = new_refs(self._prefix, names, blobs)
        pipeline = self._redis.pipeline(transaction=False)
        for ref, blob in zip(refs, blobs, strict=True):
            pipeline.set(self._key(ref), blob)
        with reaching_server(BlobError, f"put {len(refs)} blobs of {sum(ref.size_bytes for ref in refs)} bytes"):
            pipeline.execute()
        return refs

    def get(self, refs: Sequence[BlobRef]) -> list[bytes]:
        """The blobs, in order and verified."""
        if not refs:
            return []
        with reaching_server(BlobError, f"get {len(refs)} blobs, the first {refs[0].uri}"):
            blobs = cast("list[bytes | None]", self._redis.mget([self._key(ref) for ref in refs]))
        return [verified(ref, blob) for ref, blob in zip(refs, blobs, strict=True)]

    def delete(self, refs: Sequence[BlobRef]) -> None:
        """Delete the blobs that are there."""
        if refs:
            with reaching_server(BlobError, f"delete {len(refs)} blobs, the first {refs[0].uri}"):
                self._redis.unlink(*(self._key(ref) for ref in refs))

    def uris(self) -> Iterator[str]:
        """The URIs of all blobs of the run."""
        with reaching_server(BlobError, "list the blobs"):
            for key in self._redis.scan_iter(match=f"{self._prefix.removeprefix('redis://')}*", count=1000):
                yield f"redis://{key.decode()}"

    def close(self) -> None:
        """Nothing was started."""

    def _key(self, ref: BlobRef) -> str:
        require_prefix(ref, self._prefix)
        return ref.uri.removeprefix("redis://")


class FileBlobs:
    """Payloads on a volume that all workers share, or in an object store: whatever fsspec opens."""

    def __init__(self, url: str, run: str) -> None:
        """url: the folder, such as file:///shared/blobs or s3://bucket/blobs; the run gets a folder of its own in
        it.

        ConfigError if fsspec does not know the protocol or lacks its package.
        """
        try:
            self._files, root = cast("tuple[Any, str]", fsspec.core.url_to_fs(url))
        except (ValueError, ImportError) as error:
            raise ConfigError(f"expected a URL that fsspec opens, found {url!r}: {error}") from error
        run_key(run, "blob")  # the same names of runs everywhere
        self._folder = f"{root.rstrip('/')}/{run}/"
        self._prefix = f"{self._files.unstrip_protocol(self._folder).rstrip('/')}/"
        # An object store shows an object when it is complete; a file is visible from its first byte.
        self._write = self._write_and_rename if isinstance(self._files, LocalFileSystem) else self._write_whole

    def put(self, names: Sequence[str], blobs: Sequence[bytes | memoryview]) -> tuple[BlobRef, ...]:
        """Store the blobs; each appears at once or not at all."""
        refs = new_refs(self._prefix, names, blobs)
        for ref, blob in zip(refs, blobs, strict=True):
            try:
                self._write(self._path(ref), blob)
            except OSError as error:
                raise BlobError(f"could not write {ref.uri}: {error}") from error
        return refs

    def get(self, refs: Sequence[BlobRef]) -> list[bytes]:
        """The blobs, in order and verified."""
        return [verified(ref, self._read(ref)) for ref in refs]

    def delete(self, refs: Sequence[BlobRef]) -> None:
        """Delete the blobs that are there."""
        for ref in refs:
            with suppress(FileNotFoundError):
                self._files.rm_file(self._path(ref))

    def uris(self) -> Iterator[str]:
        """The URIs of all blobs of the run, and of what a killed writer left of one."""
        try:
            paths = cast("list[str]", self._files.find(self._folder))
        except FileNotFoundError:
            return
        except OSError as error:
            raise BlobError(f"could not list {self._prefix}: {error}") from error
        for path in paths:
            yield self._prefix + path.partition(self._folder.lstrip("/"))[2]

    def close(self) -> None:
        """Nothing was started."""

    def _path(self, ref: BlobRef) -> str:
        require_prefix(ref, self._prefix)
        return self._folder + ref.uri.removeprefix(self._prefix)

    def _read(self, ref: BlobRef) -> bytes | None:
        try:
            return cast(bytes, self._files.cat_file(self._path(ref)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BlobError(f"could not read {ref.uri}: {error}") from error

    def _write_and_rename(self, path: str, blob: bytes | memoryview) -> None:
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(f"{path}.tmp", blob)
        self._files.mv(f"{path}.tmp", path)

    def _write_whole(self, path: str, blob: bytes | memoryview) -> None:
        self._files.pipe_file(path, bytes(blob))


def build_blobs(url: str, redis: Redis, run: str) -> BlobStore:
    """The run's store: "redis://" is the run's own server, "ray://" the object store of its cluster, any other URL a
    folder that fsspec opens.
    """
    if url == "redis://":
        return RedisBlobs(redis, run)
    if url == "ray://":
        return RayBlobs(run)
    return FileBlobs(url, run)
