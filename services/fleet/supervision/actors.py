"""Ray: the engine that places and runs the workers. No other module of the project starts an actor.

An actor holds one plain worker object and forwards calls to it; whatever can be tested lives in the worker. Ray's own
restarts stay off: a worker that came back with old weights must catch up before it may produce.

An actor's work runs in one thread. Two more answer while that one is busy, or stuck: `watch` tells stacks and takes the
request to leave, `linger` never answers at all, so that its reference fails the moment the process is gone.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from services.errors import StalledError, WorkerFailed
from services.fleet.planning.placement import GIB, Bundle, Needs, Node, crowded_out
from services.fleet.supervision.stacks import stacks

WATCH, LINGER = "watch", "linger"
NODE_DIED = "because its node has died"
"""In Ray's words for the end of an actor."""
ASKED = "a worker"
START_ATTEMPTS = 4
"""Of the private cluster: Ray gives its node 30 s, which is too short on a machine that is busy otherwise."""
WORKERS = {
    "rollout": "services.fleet.workers.rollout_worker:RolloutWorker",
    "reward": "services.fleet.workers.reward_worker:RewardWorker",
    "learner": "services.fleet.workers.learner_worker:LearnerWorker",
    "judge": "services.fleet.workers.judge_worker:JudgeWorker",
    "simulated": "services.fleet.workers.simulated:SimulatedActor",
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

    def node(self) -> str:
        """Ray's name of the node that this process is on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def start(self, role: str, arguments: Sequence[Any]) -> None:
        """Build the role's worker."""
        module, _, name = WORKERS[role].partition(":")
        self._worker = getattr(import_module(module), name)(*arguments)

    def call(self, method: str, *arguments: Any) -> Any:  # noqa: ANN401 - forwards
        """Call the worker."""
        return getattr(self._worker, method)(*arguments)

    def leave(self) -> None:
        """Ask the worker's loop to end behind the work in hand."""
        self._worker.leave()

    def stacks(self) -> str:
        """What every thread of this process is doing."""
        return stacks()

    def linger(self) -> None:
        """Never comes back."""
        while True:
            time.sleep(3600.0)


@contextmanager
def ray_session() -> Iterator[tuple[str, ...]]:
    """Connect to the cluster that RAY_ADDRESS names, or run a private one on this machine for the time of the context.

    The private cluster asks for a token that nobody else knows; nothing is written into the home folder. Its own
    metrics are at the addresses (host:port) that the context gives; a cluster of somebody else's is watched by them.
    """
    if os.environ.get("RAY_ADDRESS"):
        import ray

        ray.init(address="auto", logging_level="warning", log_to_driver=False)
        try:
            yield ()
        finally:
            ray.shutdown()
        return
    folder = Path(tempfile.mkdtemp(prefix="tafs-ray-", dir="/tmp"))  # short: Ray puts unix sockets below it
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    import ray

    read_authentication_anew()
    try:
        for attempt in range(START_ATTEMPTS):
            try:
                ray.init(
                    num_cpus=max(os.cpu_count() or 1, 1),
                    include_dashboard=False,
                    logging_level="warning",
                    log_to_driver=False,
                    _temp_dir=str(folder / f"r{attempt}"),
                )
                break
            except Exception as error:  # Ray has no type for it, and no setting for its 30 s
                if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS - 1:
                    raise
                ray.shutdown()
        yield tuple(f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes())
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def read_authentication_anew() -> None:
    """Let Ray read RAY_AUTH_* again: this process keeps what they said when Ray was imported or last connected."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def node_address() -> str:
    """Where this node's servers can be reached: from this machine only where the cluster is a private one."""
    import ray

    return str(ray.util.get_node_ip_address()) if os.environ.get("RAY_ADDRESS") else "127.0.0.1"


def cluster_resources() -> dict[str, float]:
    """What the connected cluster has, by Ray's names in order, without what Ray adds for its own accounts."""
    import ray

    return _named_by_people(ray.cluster_resources())


def _named_by_people(resources: dict[str, float]) -> dict[str, float]:
    own = re.compile(r"_group_|^(node:|object_store_memory$)")
    return {name: amount for name, amount in sorted(resources.items()) if not own.search(name)}


def cluster_nodes() -> list[Node]:
    """The connected cluster's living nodes, with all that they have, whoever uses it."""
    import ray

    return [
        Node(
            name=str(node["NodeManagerHostname"]),
            cpus=have.get("CPU", 0.0),
            gpus=int(have.get("GPU", 0.0)),
            memory_gib=have.get("memory", 0.0) / GIB,
            resources={name: n for name, n in _named_by_people(have).items() if name not in ("CPU", "GPU", "memory")},
        )
        for node in ray.nodes()
        if node["Alive"] and (have := node["Resources"]) is not None
    ]


class Reservation:
    """Room for all bundles of a run, taken at once or not at all; it is given back when the run's driver ends."""

    def __init__(self, bundles: Sequence[Bundle], timeout_s: float) -> None:
        """Wait for the room. Meanwhile an autoscaler sees what is wanted. StalledError after timeout_s."""
        import ray
        from ray.exceptions import GetTimeoutError

        self._group = ray.util.placement_group([bundle.needs.for_ray() for bundle in bundles], strategy="PACK")
        self._index = {slot: index for index, bundle in enumerate(bundles) for slot in bundle.slots}
        try:
            ray.get(self._group.ready(), timeout=timeout_s)
        except GetTimeoutError as error:
            ray.util.remove_placement_group(self._group)
            crowded = crowded_out(bundles, cluster_nodes())
            hint = "; roles without fleet.<role>.resources may take the place of those with them" if crowded else ""
            raise StalledError(
                f"no room for all {len(bundles)} reservations of the fleet within {timeout_s:.0f} s "
                f"(fleet.room_timeout_s); the cluster has {cluster_resources()}{hint}"
            ) from error

    def strategy(self, slot: str) -> Any:  # noqa: ANN401 - Ray's
        """How an actor gets into its slot's bundle; a slot that was added later goes wherever there is room."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if slot not in self._index:
            return "DEFAULT"
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=self._index[slot])


class Worker:
    """The driver's handle of one actor."""

    def __init__(self, slot: str, needs: Needs, reservation: Reservation | None) -> None:
        """A reservation of None: wherever there is room."""
        import ray

        self.slot = slot
        actor = ray.remote(concurrency_groups={WATCH: 1, LINGER: 1})(Host).options(
            name=None,
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=round(needs.memory_gib * GIB),
            resources=dict(needs.resources),
            scheduling_strategy="DEFAULT" if reservation is None else reservation.strategy(slot),
            max_restarts=0,
            max_concurrency=1,
        )
        self._actor = actor.remote()
        self.gone = self._actor.linger.options(concurrency_group=LINGER).remote()
        """A reference that is ready when the process is over."""
        self._node = self._actor.node.options(concurrency_group=WATCH).remote()

    def free_address(self) -> Any:  # noqa: ANN401 - an ObjectRef
        """A reference to host:port on the worker's node."""
        return self._actor.free_address.remote()

    def start(self, role: str, *arguments: object) -> Any:  # noqa: ANN401
        """A reference that is ready when the worker is built."""
        return self._actor.start.remote(role, arguments)

    def call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401
        """A reference to the method's result."""
        return self._actor.call.remote(method, *arguments)

    def leave(self) -> None:
        """Ask the worker's loop to end; answers, if at all, through its reference."""
        self._actor.leave.options(concurrency_group=WATCH).remote()

    def stacks(self) -> Any:  # noqa: ANN401
        """A reference to the stacks of all threads; a stopped process, or one that holds the GIL, never answers."""
        return self._actor.stacks.options(concurrency_group=WATCH).remote()

    def death(self) -> str | None:
        """Why the actor's process is gone; None while it is not."""
        return None if not finished([self.gone]) else str(failure(self.gone)).removeprefix(f"{ASKED}: ")

    def died_with(self, nodes: Set[str]) -> bool:
        """Whether what ended this process was the end of its node; nodes: those that are lost."""
        known = bool(finished([self._node])) and failure(self._node) is None
        return (known and results([self._node], 1.0, ASKED)[0] in nodes) or NODE_DIED in (self.death() or "")

    def kill(self) -> None:
        """End the actor now; a stopped process follows within some seconds."""
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
        raise WorkerFailed(f"{what}: {_cause(error)}") from error
    return values


def failure(reference: Any) -> Exception | None:  # noqa: ANN401
    """Why a reference that is ready has no value; None where it has one."""
    try:
        results([reference], 1.0, ASKED)
    except Exception as error:  # the edge between the actor's process and ours: told, not handled
        return error
    return None


def finished(references: Sequence[Any], timeout_s: float = 0.0) -> list[Any]:
    """Those references that are ready, after at most timeout_s of waiting for all of them."""
    import ray

    ready, _ = ray.wait(list(references), num_returns=len(references), timeout=timeout_s)
    return list(ready)


def deaths(workers: Sequence[Worker]) -> dict[str, str]:
    """Why the processes of those that are gone are gone, by slot; one question to Ray for all of them."""
    over = set(finished([worker.gone for worker in workers])) if workers else set()
    return {worker.slot: worker.death() or "" for worker in workers if worker.gone in over}


def lost_nodes() -> set[str]:
    """Ray's names of the connected cluster's nodes that are no more. It takes Ray some 15 s to be sure of one that
    does not say goodbye.
    """
    import ray

    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


def _cause(error: Exception) -> str:
    """Ray's reason for an actor's death, in a line."""
    text = " ".join(str(error).split())
    if NODE_DIED in text:
        return text[text.index("The actor died because") :][:200]
    found = re.search(r"Worker exit type: (\w+) Worker exit detail: (.*?)( Some common causes|$)", text)
    return f"process ended ({found[1]}): {found[2]}"[:200] if found else text[:200]
