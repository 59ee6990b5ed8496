"""Reward servers on a real port, in a thread of the test's process."""

import contextlib
import threading
import time
from collections.abc import Iterator

import uvicorn

from rewards.reward import Reward
from services.serving.app import RewardServer
from services.serving.config import ServingConfig

READY_WITHIN_S = 10.0


@contextlib.contextmanager
def serving(reward: Reward, token: str | None = None, **settings: object) -> Iterator[str]:
    """The URL of a server of this reward; it has stopped when the block is left."""
    config = ServingConfig.model_validate({"use": reward.name, "port": 0, **settings})
    server = uvicorn.Server(
        uvicorn.Config(RewardServer(reward, config, token).app, port=0, log_level="warning", access_log=False)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + READY_WITHIN_S
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join()
