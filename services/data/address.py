"""How a command finds the server of a run.

A run with a server of its own leaves its URL in its folder for as long as it lives. The URL carries the password, which
dies with the run; the file is for its owner's eyes only. Of any other server the folder knows the URL without its
password, which the environment must give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from services.errors import ConfigError

ADDRESS_FILE = ".server"
URL_VARIABLE = "TAFS_REDIS_URL"


@contextmanager
def leave_address(folder: Path, url: str) -> Iterator[None]:
    """Leave the URL in the run folder for the time of the context."""
    path = folder / ADDRESS_FILE
    path.unlink(missing_ok=True)  # of a start that was killed
    path.touch(mode=0o600)
    path.write_text(url)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find_server(folder: Path, environment: Mapping[str, str]) -> str:
    """The URL of the server that holds the run of this folder. ConfigError if the folder is not a run's, the run is
    over and its server was its own, or the URL lacks a password that the environment does not give.
    """
    config = folder / "config.yaml"
    if not config.is_file():
        raise ConfigError(f"expected a run folder, found no {config}")
    path = folder / ADDRESS_FILE
    if path.is_file():
        return path.read_text()
    url = (yaml.safe_load(config.read_text(encoding="utf-8")).get("fleet") or {}).get("redis")
    if url is None:
        raise ConfigError(
            f"{folder}: the run is not running, and its server was its own: what it held went with it; "
            "start the run again, or give it a server that lasts (fleet.redis)"
        )
    if ":***@" in str(url):
        if not environment.get(URL_VARIABLE):
            raise ConfigError(f"the password of {url} is not in the run folder: set {URL_VARIABLE} to the whole URL")
        return environment[URL_VARIABLE]
    return str(url)
