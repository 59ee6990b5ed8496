"""`tafs train`: a run with its output as text for people or as JSON lines for collectors."""

from __future__ import annotations

import logging
import sys
from typing import TextIO, cast

from rich.console import Console

from services.config import RunConfig
from services.errors import ExitCode, TafsError
from services.fleet.run.launch import train
from services.observe.log import JsonHandler, JsonLines

WIDTH = 10_000
"""Columns of the console behind JSON lines: no message is broken into two."""


def train_run(config: RunConfig, *, fresh: bool) -> ExitCode:
    """Train as the run file says, with its output as it says; the exit code. Raises the errors of `services.errors`,
    but for JSON lines, which tell them.
    """
    try:
        return _train(config, fresh=fresh)
    except KeyboardInterrupt:  # a second signal; typer would say 130
        return ExitCode.DRAINED


def _train(config: RunConfig, *, fresh: bool) -> ExitCode:
    if config.fleet.log == "text":
        return train(config, fresh=fresh, console=Console())
    lines = JsonLines(sys.stdout, config.name)
    logging.basicConfig(handlers=[JsonHandler(lines)], level=logging.INFO)
    try:
        return train(config, fresh=fresh, console=Console(file=cast("TextIO", lines), width=WIDTH), lines=lines)
    except TafsError as error:
        lines.emit(str(error), level="error")
        return error.exit_code
