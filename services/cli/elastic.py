"""`tafs drain` and `tafs scale`: something is asked of a run that is going on."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.data.address import find_server
from services.data.server import connect
from services.errors import ConfigError, StalledError
from services.fleet.supervision.asked import Requests

ROLES = ("rollout", "reward")
POLL_S = 0.2


def ask_drain(folder: Path, *, wait_s: float) -> None:
    """Ask the run to finish what is in flight, checkpoint and leave, and wait until it has; 0 does not wait.
    ConfigError where no run is going on, StalledError where it is after wait_s.
    """
    _require_going(folder)
    _requests(folder).ask_drain()
    deadline = time.monotonic() + wait_s
    while wait_s > 0 and going_on(folder):
        if time.monotonic() > deadline:
            raise StalledError(f"{folder}: the run is still going on after {wait_s:.0f} s")
        time.sleep(POLL_S)


def ask_workers(folder: Path, given: Sequence[str]) -> Mapping[str, int]:
    """Ask for so many workers, such as "rollout=4"; what was asked. ConfigError."""
    wanted = workers_of(given)
    _require_going(folder)
    _requests(folder).ask_workers(wanted)
    return wanted


def workers_of(given: Sequence[str]) -> dict[str, int]:
    """Numbers of workers by role. ConfigError for anything that is not role=N."""
    wanted = {}
    for text in given:
        role, _, number = text.partition("=")
        if role not in ROLES or not number.isdigit() or int(number) < 1:
            raise ConfigError(f"expected rollout=N or reward=N with N of at least 1, found {text!r}")
        wanted[role] = int(number)
    return wanted


def going_on(folder: Path) -> bool:
    """Whether a run has this folder now."""
    try:
        with (folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _require_going(folder: Path) -> None:
    if not going_on(folder):
        raise ConfigError(f"{folder}: expected a run that is going on, on this machine or this volume; found none")


def _requests(folder: Path) -> Requests:
    return Requests(connect(find_server(folder, os.environ)), folder.resolve().name)
