"""A server of a judge's model, such as vLLM, as a process of ours: started, waited for, started again, stopped.

The process has a session of its own, so that a stop reaches its children, too; the kernel ends it should its owner be
killed. What it prints goes to a log file.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import services.data.die_with_owner as starter
from services.errors import RewardFailed

POLL_S = 0.2
STOP_S = 20.0
"""A server that has not ended so long after SIGTERM is killed."""
LOG_TAIL_BYTES = 2000


class ModelServer:
    """One server behind a host and a port that stay its own, and a thread that keeps it alive."""

    def __init__(
        self,
        *,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        host: str,
        port: int,
        log: Path,
        ready_s: float,
        restarts: int,
    ) -> None:
        """`--host` and `--port` are put behind the command. ready_s: seconds until it must answer GET /health.
        restarts: how often it is started again after it ended by itself.
        """
        self._name = name
        self._command = [*command, "--host", host, "--port", str(port)]
        self._environment = {**os.environ, **environment}
        self._address = (host, port)
        self._log = log
        self._ready_s = ready_s
        self._restarts = restarts
        self._started = 0
        self._stopping = threading.Event()
        self._settled = threading.Event()  # it answered, or it never will
        self._broken: RewardFailed | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # The kernel watches the thread that starts the process, so it is one that lives as long.
        self._keeper = threading.Thread(target=self._keep, name=f"keeps {name}", daemon=True)

    @property
    def url(self) -> str:
        """What a judge's `url` must be."""
        return f"http://{self._address[0]}:{self._address[1]}/v1"

    @property
    def pid(self) -> int | None:
        """The process that is running now; None if none is."""
        return None if self._process is None else self._process.pid

    @property
    def starts(self) -> int:
        """How often it has been started."""
        return self._started

    def start(self) -> None:
        """Start it and wait until it answers. RewardFailed with the end of its log where it does not."""
        self._keeper.start()
        if not self._settled.wait(self._ready_s + 2 * STOP_S):
            raise RewardFailed(f"{self._name}: neither up nor given up after {self._ready_s + 2 * STOP_S:g} s")
        self.check()

    def check(self) -> None:
        """RewardFailed where it has been given up."""
        if self._broken is not None:
            raise self._broken

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        self._stopping.set()
        self._keeper.join(3 * STOP_S)

    def _keep(self) -> None:
        try:
            while not self._stopping.is_set() and self._started <= self._restarts:
                self._run_once()
            if not self._stopping.is_set():
                self._broken = RewardFailed(f"{self._name}: it ended {self._started} times; {self._log_tail()}")
        except RewardFailed as error:
            self._broken = error
        finally:
            self._end()
            self._settled.set()

    def _run_once(self) -> None:
        """Start it, wait until it answers, then until it ends or is to stop."""
        self._started += 1
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(starter.__file__), str(os.getpid()), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + self._ready_s
        while not self._stopping.is_set():
            if self._process.poll() is not None:
                if not self._settled.is_set():
                    raise RewardFailed(
                        f"{self._name}: expected a server, found it ended with status {self._process.returncode}; "
                        f"{self._log_tail()}"
                    )
                self._end()  # what it left of itself
                return
            if self._answers():
                break
            if time.monotonic() > deadline:
                raise RewardFailed(f"{self._name}: no answer within {self._ready_s:g} s; {self._log_tail()}")
            self._stopping.wait(POLL_S)
        self._settled.set()
        while self._process.poll() is None and not self._stopping.wait(POLL_S):
            pass
        self._end()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(*self._address, timeout=5.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _end(self) -> None:
        """Terminate the process and all of its session; kill what is left after STOP_S."""
        process, self._process = self._process, None
        if process is None:
            return
        for sign, patience_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
            if not _alive(process.pid):
                return
            time.sleep(POLL_S)

    def _log_tail(self) -> str:
        tail = self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        return f"the end of {self._log}:\n{tail}"


def _alive(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True
