"""`tafs status`: where a run stands, once or live, from its run folder and, while it goes on, its server."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from redis import Redis
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from services.cli.elastic import going_on
from services.data.address import find_server
from services.data.claims import Held, held_by_slot
from services.data.queue import Queue
from services.data.server import connect, impatient
from services.errors import ConfigError, QueueError, ServerUnavailable
from services.observe.standing import Standing, tables
from services.observe.workers import read_workers

PATIENCE_S = 2.0
"""For the server, at every look."""
WINDOW_S = 30.0
"""Rates are taken over so long."""


def show_status(folder: Path, console: Console) -> None:
    """Print where the run stands. ConfigError where the folder is not that of a run with an update."""
    if not (folder / "status.json").is_file():
        raise ConfigError(f"expected a run folder with a finished update, found no {folder / 'status.json'}")
    console.print(tables(Look(folder)(), None, console.width))


def watch_status(
    folder: Path, console: Console, *, every_s: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Show it live, until the run is over or whoever watches has seen enough. ConfigError where there is no run."""
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"expected a run folder, found no {folder / 'config.yaml'}")
    look, seen = Look(folder), deque[Standing]()
    with ExitStack() as stack:
        show = _screen(console, stack)
        while True:
            going = going_on(folder)
            now = look()
            while seen and now.unix_time - seen[0].unix_time > WINDOW_S:
                seen.popleft()
            show(tables(now, seen[0] if seen else None, console.width))
            if not going:
                break
            seen.append(now)
            sleep(every_s)
    console.print(Text(f"{folder}: no run is going on"))


def _screen(console: Console, stack: ExitStack) -> Callable[[RenderableType], None]:
    """Where looks are shown: in place on a terminal, one below the other elsewhere."""
    if not console.is_terminal or console.is_dumb_terminal:
        return console.print
    live = stack.enter_context(Live(console=console, auto_refresh=False, vertical_overflow="crop"))
    return partial(live.update, refresh=True)


class Look:
    """Looks at a run again and again; a server that does not answer is asked anew at the next look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: tuple[str, Redis] | None = None

    def __call__(self) -> Standing:
        """The run now."""
        path = self._folder / "status.json"
        status: Mapping[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
        told, held = self._ask()
        return Standing(
            unix_time=time.time(),
            run=self._folder.resolve().name if status is None else str(status["run"]),
            status=status,
            queue=told or (None if status is None else status["queue"]),
            live=told is not None,
            workers=read_workers(self._folder),
            held=held,
        )

    def _ask(self) -> tuple[Mapping[str, Any] | None, Mapping[str, Held]]:
        if not going_on(self._folder):
            return None, {}
        run = self._folder.resolve().name
        try:
            redis = self._server()
            return msgspec.to_builtins(Queue(redis, run).statistics()), held_by_slot(redis, run)
        except (ConfigError, QueueError, ServerUnavailable):  # it starts, ends, or needs a password
            return None, {}

    def _server(self) -> Redis:
        url = find_server(self._folder, os.environ)
        if self._known is None or self._known[0] != url:
            self._known = url, impatient(connect(url), PATIENCE_S)
        return self._known[1]
