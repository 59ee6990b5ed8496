"""A small TCP proxy before a server behind a unix socket, which a test can cut, slow down or leave half open."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress


class Proxy:
    """Forwards until it is told otherwise; a context manager."""

    def __init__(self, target: str) -> None:
        """target: the path of a unix socket."""
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._open = threading.Event()  # bytes pass
        self._open.set()
        self._accepting = True
        self._delay_s = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()
        self._open.set()
        self._drop()

    def cut(self, seconds: float) -> None:
        """Every connection is reset, and new ones are for so long."""
        self._accepting = False
        self._drop()
        time.sleep(seconds)
        self._accepting = True

    def hang(self, seconds: float) -> None:
        """Connections stay open, nothing passes for so long; then they are reset: nobody may trust them any more."""
        self._open.clear()
        time.sleep(seconds)
        self._drop()
        self._open.set()

    def slow(self, seconds: float, delay_s: float) -> None:
        """Every piece of data is late by so much, for so long."""
        self._delay_s = delay_s
        time.sleep(seconds)
        self._delay_s = 0.0

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._accepting:
                near.close()
                continue
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(self._target)
            except OSError:  # nobody is there just now
                near.close()
                far.close()
                continue
            with self._lock:
                self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._open.wait(120.0)
                if self._delay_s:
                    time.sleep(self._delay_s)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.close()

    def _drop(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
