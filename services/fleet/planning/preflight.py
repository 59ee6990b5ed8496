"""Everything that can be known before a start, checked before a start: files, rewards, prompts' metadata."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from learner.checkpoint_folders import open_folder
from rewards.build import build as build_reward
from rewards.build import build_held_out, look_at
from rewards.judge import build_judge
from rewards.reward import MissingModelError, RewardError, check_metadata
from rollout.policies.build import TAKE_REFERENCES, pipeline_class
from rollout.policies.hub import missing_files
from rollout.prompts import load_prompts
from rollout.references import open_reference
from rollout.types import Prompt
from services.config import FleetConfig, RunConfig
from services.errors import ConfigError, RewardFailed
from services.fleet.planning.model_folder import model_folder
from services.fleet.planning.placement import Node, bundles_of, plan
from services.fleet.planning.run_folder import checkpoints_of


def check_inputs(config: RunConfig, *, here: bool = True) -> list[str]:
    """One sentence about each thing that was found sound. here: whether the run is for this machine, where no cluster
    is named.

    ConfigError naming file and key for the first that is not, RewardFailed for a reward's server that does not answer.
    """
    try:
        folder = model_folder(config.model)
        family = pipeline_class(folder)
        if absent := missing_files(folder):
            raise ValueError(f"expected a whole pipeline, found no {folder / absent[0]}; change `model.path`")
        found = [f"model: {family} at {folder}"]
        prompts = load_prompts(config.sampling.prompts)
        found.append(f"prompts: {len(prompts)} in {config.sampling.prompts}")
        _check_references(config.sampling.prompts, prompts, family)
        found += _check_rewards(config, prompts)
        if config.evaluation is not None:
            held_out = load_prompts(config.evaluation.prompts)
            _check_references(config.evaluation.prompts, held_out, family)
            _require_targets(config, held_out)
            build_judge()
            found.append(f"evaluation: {len(held_out)} prompts, judge ready")
            watch = config.evaluation.watch
            for entry in () if watch is None else watch.panel:
                seen = look_at(build_held_out, entry.use, entry.options)
                check_metadata(seen, [prompt.metadata for prompt in held_out])
                found.append(f"panel: {entry.title}, held out")
        if config.fleet.checkpoints is not None:
            found.append(_check_checkpoints(config))
        if here and "RAY_ADDRESS" not in os.environ:
            check_room(config.fleet, {"CPU": float(os.cpu_count() or 1), "GPU": math.inf})
            found.append(f"room: {os.cpu_count()} CPUs on this machine")
    except (ValueError, MissingModelError) as error:
        raise ConfigError(str(error)) from error
    except RewardError as error:
        raise RewardFailed(str(error)) from error
    return found


def _check_checkpoints(config: RunConfig) -> str:
    place = checkpoints_of(config, config.folder)
    try:
        folder = open_folder(place)
        folder.probe()
        return f"checkpoints: {len(folder.names())} at {place}, writable"
    except (OSError, ValueError) as error:
        raise ConfigError(f"fleet.checkpoints: expected a place to write to, found {place}: {error}") from error


def _check_rewards(config: RunConfig, prompts: Sequence[Prompt]) -> list[str]:
    found = []
    for entry in config.rewards:
        reward = look_at(build_reward, entry.use, entry.options)  # a driver may have no GPU, and takes none
        check_metadata(reward, [prompt.metadata for prompt in prompts])
        low, high = reward.range
        _check_gates_on(config, entry.title, low, high)
        weights = " ".join(f"{weight:g} (update {at})" for at, weight in entry.weights)
        steps = list(config.reward_steps(entry, config.sampling.behaviour()))
        weight = f"{entry.weights[0][1]:g}" if len(entry.weights) == 1 else weights
        found.append(f"reward: {entry.title}, range {low:g} to {high:g}, weight {weight}, steps {steps}")
    return found


def _check_references(path: Path, prompts: Sequence[Prompt], family: str) -> None:
    for prompt in prompts:
        if prompt.references and family not in TAKE_REFERENCES:
            raise ValueError(
                f"{path}:{prompt.id}: expected no references, for {family} reads none ({', '.join(TAKE_REFERENCES)} "
                f"does); found {len(prompt.references)}"
            )
        for reference in prompt.references:
            try:
                open_reference(reference)
            except ValueError as error:
                raise ValueError(f"{path}:{prompt.id}: {error}") from error


def _check_gates_on(config: RunConfig, title: str, low: float, high: float) -> None:
    for place, entry in enumerate(config.rewards):
        if entry.gate is not None and entry.gate.reward == title and not low < entry.gate.at_least <= high:
            raise ConfigError(
                f"rewards[{place}].gate.at_least: expected a score that {title!r} gives to some and not to all, above "
                f"{low:g} and at most {high:g}; found {entry.gate.at_least:g}"
            )


def _require_targets(config: RunConfig, prompts: Sequence[Prompt]) -> None:
    assert config.evaluation is not None
    for prompt in prompts:
        if "target" not in prompt.metadata:
            raise ValueError(
                f'{config.evaluation.prompts}:{prompt.id}: expected "target" in the metadata (the text to read), found '
                f"{sorted(prompt.metadata)}"
            )


def check_room(fleet: FleetConfig, have: Mapping[str, float]) -> None:
    """ConfigError where the fleet asks for more than there is. have: Ray's resources, by Ray's names."""
    roles = {"rollout": fleet.rollout, "reward": fleet.reward, "learner": fleet.learner}
    for resource, asked in (
        (
            "CPU",
            {name: role.workers * role.cpus for name, role in roles.items()}
            | {f"judge {judge.name}": judge.cpus for judge in fleet.judges},
        ),
        (
            "GPU",
            {name: role.workers * role.gpus for name, role in roles.items()}
            | {f"judge {judge.name}": judge.gpus for judge in fleet.judges},
        ),
    ):
        need, there = sum(asked.values()), have.get(resource, 0.0)
        if need > there + 1e-9:
            parts = ", ".join(f"{name} {amount:g}" for name, amount in asked.items())
            raise ConfigError(
                f"the fleet asks for {need:g} {resource}s ({parts}), there are {there:g}; lower fleet.<role>.workers "
                f"or fleet.<role>.{resource.lower()}s, fractions share one"
            )


def check_reach(config: RunConfig, nodes: Sequence[Node]) -> None:
    """ConfigError where workers on several nodes could not reach what only one of them has."""
    if len(nodes) < 2:
        return
    if config.fleet.redis is None:
        raise ConfigError(
            f"fleet.redis: expected the URL of a server that all {len(nodes)} nodes reach, found none: the private one "
            "is this node's; set TAFS_REDIS_URL, and `redis: ${TAFS_REDIS_URL}`"
        )
    if not config.runs.is_absolute():
        raise ConfigError(
            f"runs: expected an absolute path that all {len(nodes)} nodes mount, found {config.runs}; a job's own "
            "folder is gone with the job"
        )


def check_places(fleet: FleetConfig, nodes: Sequence[Node]) -> None:
    """ConfigError where some worker fits on no node, though the sum of all nodes may be enough."""
    homeless = plan(bundles_of(fleet), nodes).homeless
    if homeless:
        have = "; ".join(f"{node.name}: {node.cpus:g} CPUs, {node.gpus} GPUs, {dict(node.resources)}" for node in nodes)
        raise ConfigError(
            f"no node has room for {' with '.join(homeless[0].slots)} ({homeless[0].needs.for_ray()}) beside the "
            f"others; there are {have}; change fleet.<role>.cpus, gpus, memory_gib or resources"
        )
