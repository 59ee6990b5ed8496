"""The queue's Lua scripts, loaded once and called by name; what they refuse comes back as our errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import NoScriptError, ResponseError

from services.data.keys import run_key
from services.data.ledger import STAGES
from services.data.server import reaching_server
from services.errors import ConfigError, QueueError, RunMissing, Superseded

KEYS = (
    *STAGES, "dead", "ledger", "running", "holes", "attempts", "failures", "evictions", "stop", "losses", "buried",
    "bytes", "epoch",
)  # fmt: skip
"""In the order of scripts/keys.lua."""
GROWING = ("admit", "publish", "retry")
"""Refused by a full server. All others must go on there: they are what makes room."""
READING = ("statistics",)
"""Called so that the server lets them write nothing: their user needs no right to."""


class Scripts:
    """One run's scripts on one server."""

    def __init__(self, redis: Redis, run: str, names: Sequence[str]) -> None:
        self._redis = redis
        self._run = run
        self._keys = [run_key(run, name) for name in KEYS]
        self._scripts: dict[str, Script] = {name: redis.register_script(_source(name)) for name in names}

    def call(self, name: str, epoch: int | None, *arguments: str | int | bytes) -> object:
        """The script's answer, all of one moment.

        epoch: the caller's, if it commands the run. ServerUnavailable if the server does not answer, RunMissing if
        it holds no such run, Superseded if another has taken the run over, QueueError for any other refusal.
        """
        caller = "" if epoch is None else epoch
        with reaching_server(QueueError, f"{name} in run {self._run!r}"), refusals(f"{name} in run {self._run!r}"):
            if name in READING:
                return self._read(self._scripts[name], caller, *arguments)
            return self._scripts[name](keys=self._keys, args=[caller, *arguments])

    def _read(self, script: Script, *arguments: str | int | bytes) -> object:
        given = (*self._keys, *arguments)
        try:
            return self._redis.evalsha_ro(script.sha, len(self._keys), *given)
        except NoScriptError:
            self._redis.script_load(script.script)
            return self._redis.evalsha_ro(script.sha, len(self._keys), *given)


@contextmanager
def refusals(action: str) -> Iterator[None]:
    """Raise what a script refuses as our errors; the rest as it is. action: what was tried, for the message."""
    try:
        yield
    except ResponseError as error:
        if "NOLEDGER" in str(error):
            raise RunMissing(
                f"{action}: expected the run's ledger, found none: "
                "it has not begun on this server, or the server lost its memory"
            ) from error
        if "FORGOTTEN" in str(error):
            raise RunMissing(f"{action}: the server has come back with an older memory: {error}") from error
        if "NOROOM" in str(error):
            raise ConfigError(f"fleet.max_payload_bytes has no room for the groups of one update: {error}") from error
        if "OLDEPOCH" in str(error):
            raise Superseded(f"{action}: another has taken the run over: {error}") from error
        raise


def source(script: str) -> str:
    """A script's Lua text."""
    return (files("services.data") / "scripts" / f"{script}.lua").read_text(encoding="utf-8")


def _source(script: str) -> str:
    """The script's Lua text with what it builds on."""
    names = ["keys", script] if script == "take_over" else ["keys", "places", script]
    flag = "no-writes" if script in READING else "allow-oom"
    flags = "" if script in GROWING else f"#!lua flags={flag}\n"
    return flags + "\n".join(source(name) for name in names)
