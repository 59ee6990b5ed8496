"""What every thread of a process is doing, as text: for the run folder, when something hangs."""

from __future__ import annotations

import re
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

FOLDER = "stacks"
KEEP = 20
"""Dumps kept in a run folder; older ones are deleted, so that a run that hangs over and over fills no disk."""


def stacks() -> str:
    """The stacks of all threads of this process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        lines = "".join(traceback.format_stack(frame))
        parts.append(f"thread {names.get(ident, 'not started by Python')} ({ident})\n{lines}")
    return "\n".join(parts)


def write_stacks(run_folder: Path, why: str, dumps: Mapping[str, str]) -> Path:
    """Keep the dumps of several processes, by their names, in one file of the run folder; its path."""
    folder = run_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9]+", "-", why)[:40].strip("-")
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() // 1000 % 1_000_000:06d}-{name}.txt"
    path.write_text(f"{why}\n\n" + "\n\n".join(f"==== {who} ====\n{dump}" for who, dump in dumps.items()) + "\n")
    for old in sorted(folder.glob("*.txt"))[:-KEEP]:
        old.unlink(missing_ok=True)
    return path
