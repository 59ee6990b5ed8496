"""`tafs check`: what would run where, and what every GPU would hold."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from services.config import FleetConfig, RunConfig
from services.errors import ConfigError
from services.fleet.planning.memory import Part, memory_plan
from services.fleet.planning.model_folder import model_folder
from services.fleet.planning.placement import GIB, Node, Placed, Plan, bundles_of, crowded_out, parse_nodes, plan
from services.fleet.planning.throughput import pace_lines, parse_latencies


def nodes_of(given: Sequence[str]) -> tuple[Node, ...]:
    """The nodes that `--node` describes; without any, this machine. Raises ConfigError."""
    try:
        return tuple(node for index, text in enumerate(given) for node in parse_nodes(text, f"node-{index}")) or (
            this_machine(),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def this_machine() -> Node:
    """What the kernel and NVIDIA's driver say of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    gpus = _gpus_mib()
    return Node(
        name="this machine",
        cpus=float(os.cpu_count() or 1),
        gpus=len(gpus),
        memory_gib=memory,
        gpu_gib=min(gpus) / 1024 if gpus else None,
    )


def _gpus_mib() -> list[int]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return [int(line) for line in done.stdout.split()] if done.returncode == 0 else []


def given_pace(config: RunConfig, latency: str | None) -> list[str]:
    """The run's pace where latencies were given; there are no guesses. Raises ConfigError."""
    try:
        return [] if latency is None else list(pace_lines(config, parse_latencies(latency)))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def plan_lines(config: RunConfig, nodes: Sequence[Node]) -> Iterator[str]:
    """The placement, the memory by role, and the memory by GPU."""
    found = plan(bundles_of(config.fleet), nodes)
    yield from _placement_lines(found, nodes, config.fleet)
    try:
        parts = memory_plan(config, model_folder(config.model))
    except ValueError as error:
        yield f"memory: not known: {error}"
        return
    yield from _memory_lines(parts, config.fleet)
    yield from _gpu_lines(found, nodes, {role: _total(listed) for role, listed in parts.items()})


def _placement_lines(found: Plan, nodes: Sequence[Node], fleet: FleetConfig) -> Iterator[str]:
    yield f"placement: layout {fleet.layout}; Ray packs the same way, but may choose otherwise among equal nodes"
    for node in nodes:
        here = [placed for placed in found.placed if placed.node == node.name]
        if here:
            yield f"  {node.name} ({node.cpus:g} CPUs, {node.gpus} GPUs): {', '.join(map(_said, here))}"
    if found.homeless:
        yield (
            f"  no room for {', '.join(slot for bundle in found.homeless for slot in bundle.slots)}; a run would "
            "refuse to start there, or wait for fleet.room_timeout_s"
        )
    elif crowded := crowded_out(bundles_of(fleet), nodes):
        yield (
            f"  Ray may find no room for {', '.join(slot for bundle in crowded for slot in bundle.slots)}: it does not "
            "look ahead, and roles without fleet.<role>.resources fit there, too; bind them to the other nodes"
        )


def _said(placed: Placed) -> str:
    on = f" on GPU {','.join(map(str, placed.gpus))}" if placed.gpus else ""
    return f"{' + '.join(placed.bundle.slots)}{on}"


def _memory_lines(parts: Mapping[str, Sequence[Part]], fleet: FleetConfig) -> Iterator[str]:
    gpus = {"learner": fleet.learner.gpus, "rollout": fleet.rollout.gpus, "reward": fleet.reward.gpus}
    for role, listed in parts.items():
        where = "GPU" if gpus[role] else "host"
        yield f"{where} memory of each {role} worker, at most: {_total(listed) / GIB:.3g} GiB"
        for part in listed:
            yield f"  {part.size_bytes / GIB:8.3f} GiB  {part.name}: {part.formula}"


def _gpu_lines(found: Plan, nodes: Sequence[Node], totals: Mapping[str, int]) -> Iterator[str]:
    """One line for GPUs that hold the same."""
    sizes = {node.name: node.gpu_gib for node in nodes}
    holds: dict[tuple[str, int], list[str]] = defaultdict(list)
    for placed in found.placed:
        for index in placed.gpus:
            holds[placed.node, index] += [slot.rpartition("-")[0] for slot in placed.bundle.slots]
    alike: dict[tuple[tuple[str, ...], float | None], int] = defaultdict(int)
    for (node, _), roles in holds.items():
        alike[tuple(roles), sizes[node]] += 1
    for (held, has), count in alike.items():
        need = sum(totals[role] for role in held) / GIB
        of = "" if has is None else f" of {has:.3g} GiB{', which is too little' if need > has else ''}"
        yield f"{count} GPU(s) with {' + '.join(held)}: at most {need:.3g} GiB{of}"


def _total(listed: Sequence[Part]) -> int:
    return sum(part.size_bytes for part in listed)
