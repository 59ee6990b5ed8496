"""An object store in memory: no rename, objects that are whole or absent, and faults on request."""

from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Killed(BaseException):
    """The process ends here."""


class ObjectStore(MemoryFileSystem):
    """fsspec's own memory file system, as strict as an object store."""

    protocol = "objects"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    calls = 0  # that change something
    kill_at = None
    fail = 0  # so many of the next calls

    def _changed(self):
        cls = type(self)
        if cls.fail:
            cls.fail -= 1
            raise ConnectionError("the store does not answer")
        if cls.kill_at == cls.calls:
            raise Killed
        cls.calls += 1

    def pipe_file(self, path, value, **options):
        self._changed()
        return super().pipe_file(path, value, **options)

    def rm_file(self, path):
        self._changed()
        return super().rm_file(path)

    def mv(self, *arguments, **options):
        raise AssertionError("an object store cannot rename")

    @classmethod
    def empty(cls):
        cls.store.clear()
        cls.calls, cls.kill_at, cls.fail = 0, None, 0


fsspec.register_implementation("objects", ObjectStore, clobber=True)
