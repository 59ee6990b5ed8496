"""Ray: the engine that places and runs the workers. No other module of the project starts an actor.

An actor holds one plain worker object and forwards calls to it; whatever can be tested lives in the worker. Ray's own
restarts stay off: a worker that came back with old weights must catch up before it may produce.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from services.config import RoleConfig
from services.errors import StalledError, WorkerFailed

WORKERS = {
    "rollout": "services.fleet.rollout_worker:RolloutWorker",
    "reward": "services.fleet.reward_worker:RewardWorker",
    "learner": "services.fleet.learner_worker:LearnerWorker",
}
"""Imported inside the actor, so that the driver needs no torch."""


class Host:
    """What runs inside an actor: an empty place until `start` puts a worker there."""

    def free_address(self) -> str:
        """host:port on this node that is free now."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def start(self, role: str, arguments: Sequence[Any]) -> None:
        """Build the role's worker."""
        module, _, name = WORKERS[role].partition(":")
        self._worker = getattr(import_module(module), name)(*arguments)

    def call(self, method: str, *arguments: Any) -> Any:  # noqa: ANN401 - forwards
        """Call the worker."""
        return getattr(self._worker, method)(*arguments)


@contextmanager
def ray_session() -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS names, or run a private one on this machine for the time of the context.

    The private cluster asks for a token that nobody else knows; nothing is written into the home folder.
    """
    if os.environ.get("RAY_ADDRESS"):
        import ray

        ray.init(address="auto", logging_level="warning", log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
        return
    folder = Path(tempfile.mkdtemp(prefix="tafs-ray-", dir="/tmp"))  # short: Ray puts unix sockets below it
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    import ray  # reads the lines above when it is imported

    try:
        ray.init(
            num_cpus=max(os.cpu_count() or 1, 1),
            include_dashboard=False,
            logging_level="warning",
            log_to_driver=False,
            _temp_dir=str(folder / "r"),
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def cluster_resources() -> dict[str, float]:
    """What the connected cluster has, by Ray's names."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()
    return resources


class Worker:
    """The driver's handle of one actor."""

    def __init__(self, slot: str, role: RoleConfig) -> None:
        import ray

        self.slot = slot
        actor = ray.remote(Host).options(
            name=None, num_cpus=role.cpus, num_gpus=role.gpus, max_restarts=0, max_concurrency=1
        )
        self._actor = actor.remote()

    def free_address(self) -> Any:  # noqa: ANN401 - an ObjectRef
        """A reference to host:port on the worker's node."""
        return self._actor.free_address.remote()

    def start(self, role: str, *arguments: object) -> Any:  # noqa: ANN401
        """A reference that is ready when the worker is built."""
        return self._actor.start.remote(role, arguments)

    def call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401
        """A reference to the method's result."""
        return self._actor.call.remote(method, *arguments)

    def kill(self) -> None:
        """End the actor now."""
        import ray

        ray.kill(self._actor)


def results(references: Sequence[Any], timeout_s: float, what: str) -> list[Any]:
    """The references' values, in order. StalledError after timeout_s, WorkerFailed where an actor died; an error that
    the worker raised comes through as itself.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

    try:
        values: list[Any] = ray.get(list(references), timeout=timeout_s)
    except GetTimeoutError as error:
        raise StalledError(f"{what}: no answer for {timeout_s:.0f} s (fleet.stall_timeout_s)") from error
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except RayActorError as error:
        raise WorkerFailed(f"{what}: a worker died: {error}") from error
    return values


def finished(references: Sequence[Any]) -> list[Any]:
    """Those references that are ready now."""
    import ray

    ready, _ = ray.wait(list(references), num_returns=len(references), timeout=0)
    return list(ready)
