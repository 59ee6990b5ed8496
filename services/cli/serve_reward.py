"""`tafs serve-reward`: the reference server of the reward protocol, on uvicorn."""

from __future__ import annotations

import uvicorn

from rewards.build import build
from rewards.remote import read_token
from rewards.reward import MissingModelError, RewardError
from services.errors import ConfigError, RewardFailed
from services.serving.app import RewardServer
from services.serving.config import ServingConfig


def serve(config: ServingConfig) -> None:
    """Answer until SIGTERM or SIGINT; requests in progress are answered first. Raises ConfigError, or
    RewardFailed where the reward stands on another server that does not answer.
    """
    try:
        reward = build(config.use, config.options)
        token = None if config.token_file is None else read_token(config.token_file)
    except (ValueError, MissingModelError) as error:
        raise ConfigError(str(error)) from error
    except RewardError as error:
        raise RewardFailed(str(error)) from error
    if reward.compares:
        raise ConfigError(
            f"use: expected a reward whose scores do not depend on each other, for a request is no group; "
            f"found {config.use!r}"
        )
    server = RewardServer(reward, config, token)
    uvicorn.run(server.app, host=config.host, port=config.port, access_log=False, log_level="info")
