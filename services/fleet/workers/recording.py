"""What the learner consumes, kept as files in the run folder, so that `tafs replay` can do an update again, alone.

    recorded/update_000007.groups = magic, length of the header, header (msgpack), payloads one after another, sha256

A file is written before its update, so that an update that ends in an error is there to be looked at; it is there whole
or not at all. Sizes and digests of the payloads are in the entries themselves.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from services.data.blob_refs import verified
from services.data.wire import ScoredEntry, decode
from services.errors import BlobError, ConfigError, QueueError

FOLDER = "recorded"
"""In the run folder."""
MAGIC = b"tafs recording 1\n"
_LENGTH = struct.Struct("<Q")
_SHA_BYTES = 32


class Recording(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One update's header."""

    update: int  # that the groups were to make
    version: int  # of the weights that it was to publish
    lineage: int
    config: str  # digest of what must stay equal over all starts of a run
    ranks: int  # of the learner: sums over several round in an order of their own
    fresh: bool  # whether the ratio guard was asked about every pair
    before: Mapping[str, str]  # digests of the learner's tensors when the update began, by kind
    entries: tuple[bytes, ...]  # ScoredEntry, in the order of their ordinals


class RecordedUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds."""

    header: Recording
    groups: tuple[tuple[ScoredEntry, tuple[bytes, ...]], ...]  # with the payloads, one per sample


class Recordings:
    """The recordings of a run: at most so many updates and bytes, the newest ones."""

    def __init__(self, run_folder: Path, updates: int, max_bytes: float) -> None:
        self._folder = run_folder / FOLDER
        self._updates, self._max_bytes = updates, max_bytes

    def write(self, header: Recording) -> RecordingWriter:
        """A new recording; its payloads are added in the entries' order within the context."""
        return RecordingWriter(self._folder, header)

    def tidy(self, update: int) -> None:
        """Delete what is above the bounds, and later updates than this one, the newest: the run went back behind them.
        The newest stays whatever its size.
        """
        older = [(found, path) for found, path in recorded(self._folder.parent) if found < update]
        for _, path in (pair for pair in recorded(self._folder.parent) if pair[0] > update):
            path.unlink()
        left = path_of(self._folder.parent, update).stat().st_size
        for place, (_, path) in enumerate(reversed(older), start=1):  # no gaps: behind one that goes, all go
            left += path.stat().st_size
            if place >= self._updates or left > self._max_bytes:
                path.unlink()


class RecordingWriter:
    """Writes one file. OSError where there is no room."""

    def __init__(self, folder: Path, header: Recording) -> None:
        self._path = path_of(folder.parent, header.update)
        self._draft = self._path.with_suffix(".part")
        self._header = header
        self._sha = hashlib.sha256()

    def __enter__(self) -> Self:
        self._path.parent.mkdir(exist_ok=True)
        self._file = self._draft.open("wb")
        header = msgspec.msgpack.encode(self._header)
        for part in (MAGIC, _LENGTH.pack(len(header)), header):
            self._write(part)
        return self

    def add(self, payloads: Sequence[bytes]) -> None:
        """The payloads of the next entry."""
        for payload in payloads:
            self._write(payload)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file:
                self._file.write(self._sha.digest())
            if error is None:
                self._draft.replace(self._path)
        finally:
            self._draft.unlink(missing_ok=True)

    def _write(self, part: bytes) -> None:
        self._sha.update(part)
        self._file.write(part)


def path_of(run_folder: Path, update: int) -> Path:
    """Where an update's recording is."""
    return run_folder / FOLDER / f"update_{update:06d}.groups"


def recorded(run_folder: Path) -> list[tuple[int, Path]]:
    """The updates that are recorded, with their files, rising."""
    found = (run_folder / FOLDER).glob("update_*.groups")
    return sorted((int(path.stem.removeprefix("update_")), path) for path in found)


def read_recording(run_folder: Path, update: int) -> RecordedUpdate:
    """An update's recording, verified. ConfigError naming the file where there is none, or it is not what was
    written.
    """
    path = path_of(run_folder, update)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        have = ", ".join(str(number) for number, _ in recorded(run_folder)) or "none"
        raise ConfigError(f"expected the recording {path}, found none; recorded updates: {have}") from error
    if not data.startswith(MAGIC):
        raise ConfigError(f"{path}: expected a file that begins with {MAGIC!r}, found {data[: len(MAGIC)]!r}")
    body = memoryview(data)[: max(0, len(data) - _SHA_BYTES)]
    found, expected = hashlib.sha256(body).digest(), data[-_SHA_BYTES:]
    if found != expected:
        raise ConfigError(
            f"{path}: expected sha256 {expected.hex()[:12]}, found {found.hex()[:12]}: cut off or changed"
        )
    try:
        start = len(MAGIC) + _LENGTH.size
        (length,) = _LENGTH.unpack(body[len(MAGIC) : start])
        header = msgspec.msgpack.decode(body[start : start + length], type=Recording)
        groups = tuple(_groups(header, body[start + length :]))
    except (msgspec.DecodeError, QueueError, BlobError, struct.error) as error:
        raise ConfigError(f"{path}: {error}; it was written by another version of the code") from error
    return RecordedUpdate(header=header, groups=groups)


def _groups(header: Recording, payloads: memoryview) -> Iterator[tuple[ScoredEntry, tuple[bytes, ...]]]:
    place = 0
    for entry in (decode(entry, ScoredEntry) for entry in header.entries):
        blobs = []
        for ref in entry.group.latents:
            blobs.append(verified(ref, bytes(payloads[place : place + ref.size_bytes])))
            place += ref.size_bytes
        yield entry, tuple(blobs)
