"""`tafs twin`: a tiny random pipeline of a family, as a folder."""

from __future__ import annotations

from pathlib import Path

from rollout.policies.twins.build import save_twin
from services.errors import ConfigError


def write_twin(family: str, folder: Path) -> Path:
    """The folder, written. ConfigError for an unknown family, or a folder that holds something."""
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"expected an empty folder, or none; {folder} holds {next(folder.iterdir()).name}")
    try:
        return save_twin(family, folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
