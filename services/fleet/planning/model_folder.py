"""Where this machine has the run's model."""

from __future__ import annotations

from pathlib import Path

from rollout.policies.hub import hub_id, local_folder
from services.errors import ConfigError
from services.model_config import ModelConfig


def model_folder(model: ModelConfig) -> Path:
    """The run's pipeline folder, fetched from the hub where it is a model of the hub that is not here yet. ConfigError
    where it cannot be had.
    """
    try:
        return local_folder(model.path, model.revision, offline=model.offline)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def model_name(model: ModelConfig) -> str:
    """What others call the model: its id on the hub, or the folder."""
    return hub_id(model.path) or str(model.path)
