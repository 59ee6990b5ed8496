"""Payloads in Ray's object store: on the node that made them until somebody on another one asks.

Every node has one host, a named actor that owns what the node's workers have put. So a blob outlives the worker that
made it and dies with its node: then it is missing, and its group is drawn again. The hosts are detached, since Ray
would else end them with the worker that happened to come first; `close` ends them with the run.

    ray://RUN/NODE/NAME.TOKEN
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from services.data.blob_refs import new_refs, require_prefix, verified
from services.data.keys import run_key
from services.data.wire import BlobRef
from services.errors import BlobError, BlobMissing

NAMESPACE = "tafs-blobs"
ANSWER_TIMEOUT_S = 60.0
"""How long a put, a get or the start of a host may take."""


class BlobHost:
    """One node's blobs; runs in an actor. Ray keeps an object for as long as a reference to it is held here."""

    def __init__(self) -> None:
        self._objects: dict[str, Any] = {}

    def put(self, uris: Sequence[str], blobs: Sequence[Any]) -> None:
        """Keep the blobs [n] uint8 under their URIs."""
        import ray

        for uri, blob in zip(uris, blobs, strict=True):
            self._objects[uri] = ray.put(blob)

    def references(self, uris: Sequence[str]) -> list[Any]:
        """Ray's references to the blobs; None where there is none."""
        return [self._objects.get(uri) for uri in uris]

    def delete(self, uris: Sequence[str]) -> None:
        """Let go of the blobs."""
        for uri in uris:
            self._objects.pop(uri, None)

    def uris(self) -> list[str]:
        """All that are kept."""
        return list(self._objects)


class RayBlobs:
    """Payloads in the object store of the cluster that this process is connected to."""

    def __init__(self, run: str) -> None:
        run_key(run, "blob")  # the same names of runs everywhere
        self._run = run
        self._prefix = f"ray://{run}/"
        self._hosts: dict[str, Any] = {}

    def put(self, names: Sequence[str], blobs: Sequence[bytes | memoryview]) -> tuple[BlobRef, ...]:
        """Store the blobs with this node's host."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        refs = new_refs(f"{self._prefix}{node}/", names, blobs)
        uris, arrays = [ref.uri for ref in refs], [np.frombuffer(blob, np.uint8) for blob in blobs]
        try:
            self._ask(node, "put", uris, arrays)
        except BlobMissing:  # the host died; what it held is lost, and the node goes on with another
            self._ask(node, "put", uris, arrays)
        return refs

    def get(self, refs: Sequence[BlobRef]) -> list[bytes]:
        """The blobs, in order and verified."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        found: dict[str, Any] = {}
        for node, uris in self._by_node(refs).items():
            found |= zip(uris, self._ask(node, "references", uris), strict=True)
        present = {uri: reference for uri, reference in found.items() if reference is not None}
        try:
            arrays = ray.get(list(present.values()), timeout=ANSWER_TIMEOUT_S)
        except GetTimeoutError as error:
            raise BlobError(f"get {len(refs)} blobs: no answer for {ANSWER_TIMEOUT_S:.0f} s") from error
        except RayError as error:
            raise BlobMissing(f"get {len(refs)} blobs, the first {refs[0].uri}: {error}") from error
        blobs = dict(zip(present, arrays, strict=True))
        return [verified(ref, blobs[ref.uri].tobytes() if ref.uri in blobs else None) for ref in refs]

    def delete(self, refs: Sequence[BlobRef]) -> None:
        """Delete the blobs that are there."""
        for node, uris in self._by_node(refs).items():
            with suppress(BlobMissing):  # gone with their host
                self._ask(node, "delete", uris)

    def uris(self) -> Iterator[str]:
        """The URIs of all blobs of the run, on every node."""
        for node in self._nodes():
            with suppress(BlobMissing):
                yield from self._ask(node, "uris")

    def close(self) -> None:
        """End the run's hosts, and with them its blobs."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        for node in self._nodes():
            with suppress(ValueError, RayActorError, GetTimeoutError):  # ended meanwhile, now, or not to be waited for
                host = ray.get_actor(self._name(node), NAMESPACE)
                ray.kill(host)
                while True:  # a kill is only asked for: the host may answer once more
                    ray.get(host.uris.remote(), timeout=ANSWER_TIMEOUT_S)
        self._hosts.clear()

    def _name(self, node: str) -> str:
        return f"{self._run}/{node}"

    def _nodes(self) -> list[str]:
        """The nodes that have a host of this run."""
        from ray.util import list_named_actors

        actors = [actor for actor in list_named_actors(all_namespaces=True) if actor["namespace"] == NAMESPACE]
        names = [str(actor["name"]).rpartition("/") for actor in actors]
        return [node for run, _, node in names if run == self._run]

    def _by_node(self, refs: Sequence[BlobRef]) -> dict[str, list[str]]:
        by_node: dict[str, list[str]] = {}
        for ref in refs:
            require_prefix(ref, self._prefix)
            by_node.setdefault(ref.uri.removeprefix(self._prefix).partition("/")[0], []).append(ref.uri)
        return by_node

    def _ask(self, node: str, method: str, *arguments: object) -> Any:  # noqa: ANN401 - the host's answer
        """A host's answer. BlobMissing if the host is gone, BlobError if it does not answer."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayError

        try:
            host = self._hosts.get(node) or self._host(node, start=method == "put")
            self._hosts[node] = host
            return ray.get(getattr(host, method).remote(*arguments), timeout=ANSWER_TIMEOUT_S)
        except GetTimeoutError as error:
            raise BlobError(f"{method} on node {node[:8]}: no answer for {ANSWER_TIMEOUT_S:.0f} s") from error
        except (RayActorError, ValueError) as error:
            self._hosts.pop(node, None)
            raise BlobMissing(f"{method} on node {node[:8]}: its blobs are gone with their host: {error}") from error
        except RayError as error:
            raise BlobError(f"{method} on node {node[:8]}: {error}") from error

    def _host(self, node: str, *, start: bool) -> Any:  # noqa: ANN401 - an actor's handle
        """The node's host; ValueError if there is none and it is not to be started."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if not start:
            return ray.get_actor(self._name(node), NAMESPACE)
        options = {
            "name": self._name(node),
            "namespace": NAMESPACE,
            "get_if_exists": True,
            "lifetime": "detached",
            "num_cpus": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }
        return ray.remote(BlobHost).options(**options).remote()
