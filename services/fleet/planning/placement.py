"""Where a fleet's workers go: bundles that Ray reserves together, and a plan of them on given nodes. No Ray, no torch.

A bundle is what must lie on one node: a worker, or in the colocated layout learner rank i with rollout worker i, whose
shares of a GPU are then shares of the same one. All bundles of a run are reserved at once or not at all, so that two
runs on one cluster can never hold half of their workers each and wait for the other half.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.config import FleetConfig, RoleConfig

GIB = 2**30
_TOLERANCE = 1e-6  # fractions of CPUs and GPUs are summed


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Resources of one worker or bundle."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_gib: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Needs) -> Needs:
        names = dict.fromkeys((*self.resources, *other.resources))
        return Needs(
            cpus=self.cpus + other.cpus,
            gpus=self.gpus + other.gpus,
            memory_gib=self.memory_gib + other.memory_gib,
            resources={name: self.resources.get(name, 0.0) + other.resources.get(name, 0.0) for name in names},
        )

    def for_ray(self) -> dict[str, float]:
        """By Ray's names; what is not asked for is left out."""
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(round(self.memory_gib * GIB)), **self.resources}
        return {name: amount for name, amount in named.items() if amount > 0.0}


@dataclass(frozen=True, slots=True)
class Bundle:
    """Workers that share a reservation on one node."""

    slots: tuple[str, ...]
    needs: Needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of a cluster."""

    name: str
    cpus: float
    gpus: int = 0
    memory_gib: float = float("inf")
    gpu_gib: float | None = None  # memory of each GPU; None = not known
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placed:
    """A bundle on a node."""

    bundle: Bundle
    node: str
    gpus: tuple[int, ...]  # indices on the node


@dataclass(frozen=True, slots=True)
class Plan:
    """What would run where."""

    placed: tuple[Placed, ...]
    homeless: tuple[Bundle, ...]  # bundles for which no node has room left


def needs_of(role: RoleConfig) -> Needs:
    """Of one worker of the role."""
    resources = {name: amount for name, amount in role.resources.items() if amount > 0.0}
    return Needs(cpus=role.cpus, gpus=role.gpus, memory_gib=role.memory_gib, resources=resources)


def bundles_of(fleet: FleetConfig) -> tuple[Bundle, ...]:
    """Every worker of the fleet in its bundle, learners first: they are the ones that must be near to each other."""
    learners, rollouts, rewards = (
        [Bundle((f"{name}-{index}",), needs_of(role)) for index in range(role.workers)]
        for name, role in (("learner", fleet.learner), ("rollout", fleet.rollout), ("reward", fleet.reward))
    )
    if fleet.layout == "colocated":
        pairs = zip(learners, rollouts, strict=True)
        learners, rollouts = [Bundle(a.slots + b.slots, a.needs + b.needs) for a, b in pairs], []
    return (*learners, *rollouts, *rewards)


def plan(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> Plan:
    """Each bundle in turn on the first node with room, a fraction of a GPU on the fullest GPU that still has it.

    What Ray's PACK strategy aims at; Ray decides, and may choose otherwise among equal nodes.
    """
    free = [_Free(node) for node in nodes]
    placed, homeless = [], []
    for bundle in bundles:
        for room in free:
            gpus = room.take(bundle.needs)
            if gpus is not None:
                placed.append(Placed(bundle, room.node.name, gpus))
                break
        else:
            homeless.append(bundle)
    return Plan(tuple(placed), tuple(homeless))


def crowded_out(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> tuple[Bundle, ...]:
    """Bundles bound to some nodes by a custom resource that find no room once those that may go anywhere lie there.

    Ray gives places away one by one and does not look ahead: what could be placed may wait for ever.
    """
    bound = [bundle for bundle in bundles if bundle.needs.resources]
    anywhere = [bundle for bundle in bundles if not bundle.needs.resources]
    asked = {name for bundle in bound for name in bundle.needs.resources}
    asked_first = sorted(nodes, key=lambda node: asked.isdisjoint(node.resources))
    return tuple(bundle for bundle in plan([*anywhere, *bound], asked_first).homeless if bundle.needs.resources)


class _Free:
    """What is left of a node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._left = Needs(cpus=node.cpus, memory_gib=node.memory_gib, resources=node.resources)
        self._gpus = [1.0] * node.gpus

    def take(self, needs: Needs) -> tuple[int, ...] | None:
        """The GPUs given, or None and nothing taken where there is no room."""
        gpus = self._choose(needs.gpus)
        rest = self._left + Needs(
            cpus=-needs.cpus,
            memory_gib=-needs.memory_gib,
            resources={name: -amount for name, amount in needs.resources.items()},
        )
        if gpus is None or min(rest.cpus, rest.memory_gib, *rest.resources.values()) < -_TOLERANCE:
            return None
        self._left = rest
        for index in gpus:
            self._gpus[index] -= min(needs.gpus, 1.0)
        return gpus

    def _choose(self, gpus: float) -> tuple[int, ...] | None:
        if gpus == 0.0:
            return ()
        whole, each = max(1, round(gpus)), min(gpus, 1.0)
        fitting = [index for index, left in enumerate(self._gpus) if left > each - _TOLERANCE]
        fullest_first = sorted(fitting, key=lambda index: self._gpus[index])
        return tuple(sorted(fullest_first[:whole])) if len(fitting) >= whole else None


_NODE = re.compile(r"^(?:(?P<count>\d+)x\s+)?(?P<facts>\S+=\S+(?:\s+\S+=\S+)*)$")


def parse_nodes(text: str, prefix: str = "node") -> Iterator[Node]:
    """Nodes from `[COUNTx] cpus=32 gpus=8 memory_gib=512 gpu_gib=80 spot=1`; other names are custom resources.

    ValueError for anything else.
    """
    found = _NODE.match(text.strip())
    if found is None:
        raise ValueError(f"--node: expected e.g. '8x cpus=32 gpus=8 memory_gib=512 gpu_gib=80', found {text!r}")
    facts = {}
    for fact in found["facts"].split():
        name, _, value = fact.partition("=")
        try:
            facts[name] = float(value)
        except ValueError:
            raise ValueError(f"--node: expected a number for {name}, found {value!r}") from None
    node = Node(
        name=prefix,
        cpus=facts.pop("cpus", 0.0),
        gpus=int(facts.pop("gpus", 0.0)),
        memory_gib=facts.pop("memory_gib", float("inf")),
        gpu_gib=facts.pop("gpu_gib", None),
        resources=facts,
    )
    for index in range(int(found["count"] or 1)):
        yield replace(node, name=f"{prefix}-{index}")
