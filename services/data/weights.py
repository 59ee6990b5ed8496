"""Published weights: the learner writes and verifies a version, then commits the pointer; workers pull.

A version lies under its own key and is never changed. The pointer names the latest; between the two writes a crash
leaves a version that nobody reads and that a later publication deletes. It is verified by its digest: read back before
the pointer moves, and whenever it is fetched, before anything is loaded. Only the learner of the run's present epoch
can move the pointer: one that was cut off and comes back cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec
import safetensors.torch
from redis import Redis
from safetensors import SafetensorError
from torch import Tensor

from rollout.trained import digest_tensors
from rollout.types import WeightsVersion
from services.data.keys import run_key
from services.data.scripted import refusals, source
from services.data.server import reaching_server
from services.data.wire import WireVersion
from services.errors import WeightsCorrupt, WeightsError, WeightsMissing

CHUNK_BYTES = 256 * 1024**2
"""The server takes no value above 512 MiB, so that larger artifacts are several values; adapters are one."""
_SIZE = "size_bytes"  # the field beside the chunks "0", "1", ...


class WeightsStore:
    """One run's weights in its Redis server. One learner publishes; anyone reads.

    keep: how many versions stay, at least 1; with 1 a worker may find the version gone that it was just told.
    Raises ServerUnavailable if the server does not answer.
    """

    def __init__(self, redis: Redis, run: str, keep: int, chunk_bytes: int = CHUNK_BYTES) -> None:
        if keep < 1:
            raise ValueError(f"expected to keep at least 1 version of the weights, found {keep}")
        self._redis = redis
        self._run = run
        self._keep = keep
        self._chunk_bytes = chunk_bytes
        self._pointer = run_key(run, "weights")
        self._index = run_key(run, "weights:versions")  # sorted set: every version that has a key
        self._commit_script = redis.register_script(source("commit_weights"))

    def publish(self, tensors: Mapping[str, Tensor], version: WeightsVersion, epoch: int) -> None:
        """Store the tensors and make them the latest; older versions beyond `keep` are deleted.

        epoch: of the take-over that the publisher works for (Queue.epoch). Superseded if another has taken the run
        over since, RunMissing if the server lost its memory. WeightsError if the version is not newer than the latest;
        WeightsCorrupt if the tensors do not have its digest, or the server did not keep what it was given.
        """
        self._require_newer(version)
        _require_digest(version, tensors)
        data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        key = self._key(version.version)
        with reaching_server(WeightsError, f"publish weights version {version.version}"):
            self._redis.zadd(self._index, {str(version.version): version.version})
            self._redis.unlink(key)  # what a publication left that was cut off
            self._redis.hset(key, mapping={_SIZE: len(data)})
            view = memoryview(data)
            for number, start in enumerate(range(0, len(data), self._chunk_bytes)):
                self._redis.hset(key, mapping={str(number): view[start : start + self._chunk_bytes]})
            if self._read(version) != data:
                raise WeightsCorrupt(f"version {version.version}: expected {len(data)} bytes as written, found others")
            self._commit(version, epoch)

    def latest(self) -> WeightsVersion | None:
        """The name of the latest version; None before the first. Cheap: nothing is fetched."""
        with reaching_server(WeightsError, "read the weights pointer"):
            pointer = cast("bytes | None", self._redis.get(self._pointer))
        return None if pointer is None else msgspec.msgpack.decode(pointer, type=WireVersion).to_version()

    def fetch(self, version: WeightsVersion) -> dict[str, Tensor]:
        """The version's tensors, on the CPU. WeightsMissing if it was deleted, WeightsCorrupt if it was changed."""
        with reaching_server(WeightsError, f"fetch weights version {version.version}"):
            data = self._read(version)
        try:
            tensors = safetensors.torch.load(data)
        except SafetensorError as error:
            raise WeightsCorrupt(f"version {version.version}: expected safetensors, found: {error}") from error
        _require_digest(version, tensors)
        return tensors

    def _key(self, version: int) -> str:
        return run_key(self._run, f"weights:{version}")

    def _require_newer(self, version: WeightsVersion) -> None:
        latest = self.latest()
        if latest is not None and version.version <= latest.version:
            raise WeightsError(
                f"expected a version above {latest.version}, the latest, found {version.version}: "
                "a version is never used twice"
            )

    def _read(self, version: WeightsVersion) -> bytes:
        """The version's bytes, all of them; WeightsMissing if there are none, WeightsCorrupt if there are too few."""
        key = self._key(version.version)
        size = cast("bytes | None", self._redis.hget(key, _SIZE))
        if size is None:
            raise WeightsMissing(f"version {version.version}: expected its bytes in the store, found nothing")
        chunks: list[bytes] = []
        found, expected = 0, int(size)
        while found < expected:
            chunk = cast("bytes | None", self._redis.hget(key, str(len(chunks))))
            if not chunk:
                raise WeightsCorrupt(f"version {version.version}: expected {expected} bytes, found {found}")
            chunks.append(chunk)
            found += len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _commit(self, version: WeightsVersion, epoch: int) -> None:
        """Move the pointer and delete what is too old, in one step that an old epoch may not take."""
        pointer = msgspec.msgpack.encode(WireVersion.of(version))
        keys = [self._pointer, self._index, run_key(self._run, "epoch")]
        with refusals(f"commit weights version {version.version} of run {self._run!r}"):
            self._commit_script(keys=keys, args=[epoch, version.version, pointer, self._keep])


def _require_digest(version: WeightsVersion, tensors: Mapping[str, Tensor]) -> None:
    found = digest_tensors(tensors)
    if found != version.digest:
        raise WeightsCorrupt(f"version {version.version}: expected digest {version.digest}, found {found}")
