"""Where checkpoints lie: a folder of this machine or of a shared volume, or whatever fsspec opens. No torch.

A folder of files is complete when it is renamed into place. An object store has no rename, and needs none: there an
object is visible when it is complete, so files are written first, under a name of their own that no other attempt has
used, and the manifest, which names them, last. A checkpoint without a manifest is not there.

    PARENT/update_000050/manifest.json                     {"4f1c.../state.json": sha256, ...}
    PARENT/update_000050/4f1c.../trained.safetensors ...
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

T = TypeVar("T")
Files = Iterable[tuple[str, bytes]]
MANIFEST = "manifest.json"
STATE = "state.json"
ATTEMPTS = 4
"""At every call of a remote store, over about ten seconds."""


class CheckpointFolder(Protocol):
    """Checkpoints by their names. OSError where the place does not answer, or has no room."""

    def names(self) -> list[str]:
        """Of the complete checkpoints, sound or not, rising."""
        ...

    def write(self, name: str, files: Files, reached: Callable[[str], None]) -> None:
        """Write a checkpoint, in the place of one of that name; it is complete or absent, whenever this ends."""
        ...

    def read(self, name: str) -> dict[str, bytes]:
        """A checkpoint's files, each verified. ValueError names the one that is missing or not what was written."""
        ...

    def prune(self, keep: Iterable[str]) -> None:
        """Delete all but these, and what attempts left that never came to an end."""
        ...

    def set_aside(self, mark: str) -> None:
        """Let all of it go on under another name, which ends in `mark`, where there is any."""
        ...

    def probe(self) -> None:
        """Write something small and take it back. OSError where that cannot be done."""
        ...


def open_folder(place: Path | str) -> CheckpointFolder:
    """The folder at a path or a URL. ValueError where fsspec does not know the protocol, or lacks its package."""
    if isinstance(place, Path):
        return LocalFolder(place)
    try:
        files, root = fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise ValueError(f"expected a URL that fsspec opens, found {place!r}: {error}") from error
    return LocalFolder(Path(root)) if isinstance(files, LocalFileSystem) else RemoteFolder(files, root)


class LocalFolder:
    """Files that are flushed to disk, and a rename."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Of the complete checkpoints, sound or not, rising."""
        return sorted(path.name for path in self._folder.glob("update_*") if path.is_dir())

    def write(self, name: str, files: Files, reached: Callable[[str], None]) -> None:
        """Write a draft, and rename it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        final = self._folder / name
        draft = self._folder / f".{name}.tmp-{uuid.uuid4().hex[:8]}"
        draft.mkdir()
        manifest = _written(files, lambda file, content: (draft / file).write_bytes(content), reached)
        (draft / MANIFEST).write_text(_text(manifest))
        for path in [*sorted(draft.iterdir()), draft]:
            _flush(path)
        if final.exists():  # left by a lineage that was rolled back
            shutil.rmtree(final)
        draft.rename(final)
        _flush(self._folder)

    def read(self, name: str) -> dict[str, bytes]:
        """A checkpoint's files, each verified."""
        folder = self._folder / name

        def content(file: str) -> bytes:
            try:
                return (folder / file).read_bytes()
            except OSError as error:
                raise ValueError(f"{folder}: {error}") from error

        return dict(_verified(str(folder), content))

    def prune(self, keep: Iterable[str]) -> None:
        """Delete all but these, and drafts."""
        kept = set(keep)
        for path in (*self._folder.glob("update_*"), *self._folder.glob(".update_*.tmp-*")):
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path)

    def set_aside(self, mark: str) -> None:
        """Rename the folder, where there is one."""
        if self._folder.exists():
            self._folder.rename(self._folder.with_name(f"{self._folder.name}.{mark}"))

    def probe(self) -> None:
        """Write a file and take it back."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f".probe-{uuid.uuid4().hex}"
        path.write_bytes(b"probe")
        path.unlink()


class RemoteFolder:
    """Objects, and a manifest that is written last. What fails on the way is tried again."""

    def __init__(self, files: Any, root: str) -> None:  # noqa: ANN401 - fsspec has no types
        self._files = files
        self._root = root.rstrip("/")
        self._url = str(files.unstrip_protocol(self._root))

    def names(self) -> list[str]:
        """Of the checkpoints that have a manifest, rising."""
        return sorted({path.split("/")[0] for path in self._paths() if path.endswith(f"/{MANIFEST}")})

    def write(self, name: str, files: Files, reached: Callable[[str], None]) -> None:
        """Write the files under a name of their own, then the manifest; an older attempt's files go."""
        token = uuid.uuid4().hex[:12]
        named = ((f"{token}/{file}", content) for file, content in files)
        manifest = _written(named, lambda file, content: self._put(f"{name}/{file}", content), reached)
        self._put(f"{name}/{MANIFEST}", _text(manifest).encode())
        valid = {f"{name}/{path}" for path in (*manifest, MANIFEST)}
        self._delete([path for path in self._paths() if path.startswith(f"{name}/") and path not in valid])

    def read(self, name: str) -> dict[str, bytes]:
        """A checkpoint's files by their last names, each verified."""

        def content(file: str) -> bytes:
            try:
                return bytes(self._patiently(partial(self._files.cat_file, f"{self._root}/{name}/{file}")))
            except FileNotFoundError as error:
                raise ValueError(f"{self._url}/{name}/{file}: expected a file, found none") from error

        return {file.rpartition("/")[2]: found for file, found in _verified(f"{self._url}/{name}", content)}

    def prune(self, keep: Iterable[str]) -> None:
        """Delete all but these, each one's manifest first, and files without a manifest."""
        kept = set(keep)
        self._delete([path for path in self._paths() if path.split("/")[0] not in kept])

    def set_aside(self, mark: str) -> None:
        """Copy everything, then delete it here: stores without a rename have no other way."""
        paths = self._paths()
        for path in paths:
            target = f"{self._root}.{mark}/{path}"
            self._patiently(partial(self._with_parents, target, partial(self._files.cp_file, self._at(path), target)))
        self._delete(paths)

    def probe(self) -> None:
        """Write an object and take it back."""
        path = f".probe-{uuid.uuid4().hex}"
        self._put(path, b"probe")
        self._delete([path])

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _paths(self) -> list[str]:
        """Of all files, relative to the root."""
        self._files.invalidate_cache()
        try:
            found = self._patiently(lambda: self._files.find(self._root))
        except FileNotFoundError:
            return []
        return [path.partition(f"{self._root.lstrip('/')}/")[2] for path in found]

    def _put(self, path: str, content: bytes) -> None:
        target = self._at(path)
        self._patiently(partial(self._with_parents, target, partial(self._files.pipe_file, target, content)))

    def _with_parents(self, target: str, write: Callable[[], None]) -> None:
        """Object stores have no folders; others want them made."""
        try:
            write()
        except FileNotFoundError:
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            write()

    def _delete(self, paths: Iterable[str]) -> None:
        for path in sorted(paths, key=lambda path: not path.endswith(f"/{MANIFEST}")):
            try:
                self._patiently(partial(self._files.rm_file, self._at(path)))
            except FileNotFoundError:
                continue

    def _patiently(self, action: Callable[[], T]) -> T:
        """The action's result, tried again; what a store's own package raises becomes an OSError."""
        waits, stop = wait_exponential(multiplier=0.5, max=8.0), stop_after_attempt(ATTEMPTS)
        try:
            return Retrying(retry=retry_if_exception(_may_pass), stop=stop, wait=waits, reraise=True)(action)
        except OSError:
            raise
        except Exception as error:  # the edge: every store has its own exceptions
            raise OSError(f"{self._url}: {type(error).__name__}: {error}") from error


def _written(files: Files, write: Callable[[str, bytes], object], reached: Callable[[str], None]) -> dict[str, str]:
    """Write every file; their manifest."""
    manifest = {}
    for file, content in files:
        write(file, content)
        manifest[file] = hashlib.sha256(content).hexdigest()
        reached("checkpoint.file")
    reached("checkpoint.files")
    return manifest


def _verified(place: str, content: Callable[[str], bytes]) -> Iterator[tuple[str, bytes]]:
    """The files that the manifest names, each with the sha256 that it says. ValueError for the first that is not."""
    try:
        manifest = json.loads(content(MANIFEST))
    except ValueError as error:  # what is no JSON, and what is no text
        raise ValueError(f"{place}: {error}") from error
    if not isinstance(manifest, dict) or STATE not in {str(file).rpartition("/")[2] for file in manifest}:
        raise ValueError(
            f"{place}/{MANIFEST}: expected the sha256 of {STATE} and every other file, found {manifest!r:.60}"
        )
    for file, sha in manifest.items():
        data = content(file)
        found = hashlib.sha256(data).hexdigest()
        if found != sha:
            raise ValueError(f"{place}/{file}: expected sha256 {str(sha)[:12]}, found {found[:12]}")
        yield file, data


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, FileNotFoundError | PermissionError)


def _text(manifest: Mapping[str, str]) -> str:
    return json.dumps(manifest, indent=1)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
