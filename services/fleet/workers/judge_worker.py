"""Keeps one judge's model server, as an actor with resources and an environment of its own."""

from __future__ import annotations

import socket
from pathlib import Path

from services.fleet.workers.model_server import ModelServer
from services.judge_config import JudgeConfig

RESTARTS = 3


class JudgeWorker:
    """The actor's worker; it is built when its server answers."""

    def __init__(self, judge: JudgeConfig, host: str, port: int, log: Path) -> None:
        """port: that it had before; 0: any that is free."""
        if port == 0:
            with socket.socket() as probe:
                probe.bind((host, 0))
                port = probe.getsockname()[1]
        log.parent.mkdir(parents=True, exist_ok=True)
        self._server = ModelServer(
            name=f"fleet.judges, {judge.name}",
            command=judge.command,
            environment=judge.environment,
            host=host,
            port=port,
            log=log,
            ready_s=judge.ready_s,
            restarts=RESTARTS,
        )
        self._server.start()

    def url(self) -> str:
        """What a judge's `url` must be."""
        return self._server.url

    def check(self) -> None:
        """RewardFailed where the server ended too often, and was given up."""
        self._server.check()

    def stop(self) -> None:
        """End the server."""
        self._server.stop()
