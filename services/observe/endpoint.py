"""The HTTP endpoint that Prometheus scrapes, and the file that tells Prometheus where it is."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path
from types import TracebackType
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.registry import Collector

from services.data.whole_file import write_whole

TARGETS = ".targets"
"""Folder beside the run folders with one file per run that should be alive, for Prometheus' file_sd_configs."""
RAY_TARGETS = f"{TARGETS}/ray"
"""The same of the private Ray of each run."""


class Endpoint:
    """An HTTP endpoint that answers scrapes until it is closed."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def host(self) -> str:
        """The address it is bound to."""
        return str(self._server.server_address[0])

    @property
    def port(self) -> int:
        """The port it is really bound to."""
        return self._server.server_port

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(metrics: Collector, *, port: int = 0, host: str = "127.0.0.1") -> Endpoint:
    """Answer scrapes of the metrics on http://host:port/metrics.

    Port 0 takes any free one. The default host is reached from this machine only. A port that is taken, or a host
    that is not this machine's, is a ValueError.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        reason = "the port is taken" if error.errno == errno.EADDRINUSE else str(error)
        raise ValueError(
            f"metrics endpoint: cannot listen on {host}:{port}: {reason}; choose another, or 0 for any free one"
        ) from error
    return Endpoint(server, thread)


def announce(runs: Path, run: str, *addresses: str, targets: str = TARGETS) -> Path:
    """Tell Prometheus to scrape the run at `addresses` (host:port); the file that says so. Remove it where the run ends
    as it should: a target that stays and does not answer is a run that died.
    """
    folder = runs / targets
    folder.mkdir(parents=True, exist_ok=True)
    return write_whole(folder / f"{run}.json", json.dumps([{"targets": addresses, "labels": {"run": run}}]))
