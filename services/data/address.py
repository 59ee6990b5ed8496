"""How a command finds the server of a run: the run leaves its server's URL in its folder for as long as it lives.

The URL may carry the embedded server's password, so the file is for its owner's eyes only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from services.errors import ConfigError

ADDRESS_FILE = ".server"


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


def find_server(folder: Path) -> str:
    """The URL of the server that holds the run of this folder. ConfigError if the folder is not a run's, or the run is
    over and its server was its own.
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
    return str(url)
