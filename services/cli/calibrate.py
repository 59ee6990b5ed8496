"""`tafs calibrate`: what the base model's steps are worth at each temperature and number of steps, before training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rewards.exact_match import exact_match
from rewards.ocr import build_tiny_recogniser
from rewards.reward import Reader
from rollout.kernel import trained_transitions
from rollout.policy import Policy
from rollout.process import num_images, process_of
from rollout.prompts import load_prompts
from rollout.types import Behaviour, Prompt, ScoredGroup, StepImages, WeightsVersion
from services.config import RunConfig
from services.errors import ConfigError
from services.fleet.run.alone import LoneRun
from services.fleet.workers.build import use_threads
from services.fleet.workers.placed_rewards import build_rewards

UNTRAINED = WeightsVersion(version=0, update=0, lineage=0, digest="")
GOOD_SHARE = 0.8
"""A start may cost at most the rest of the best final reward found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One line of the table; tuples run over a sample's images."""

    num_steps: int
    temperature: float
    sigmas: tuple[float, ...]
    images: int  # drawn for it
    reward: tuple[float, ...]  # mean of the first reward
    spread: float  # its standard deviation within a group at the final image, in units of its range, mean over groups
    silent_groups: float  # share of groups whose final rewards are all equal: nothing to learn from
    diversity: tuple[float, ...]  # root mean square distance within a group, in latents
    legibility: tuple[float, ...] | None  # share of images whose text is the prompt's target, where prompts have one
    problem: str | None  # why the run file's process cannot be trained like this


def settings_of(
    config: RunConfig, temperatures: Sequence[float], steps: Sequence[int], groups: int
) -> Iterator[Setting]:
    """Draw, decode and score `groups` groups at every setting; the same prompts and initial noise at all of them."""
    first = build_rewards(config)[0]  # scored at every step, whatever training would read of it
    run = LoneRun(config, (replace(first, steps=lambda behaviour: tuple(_steps(behaviour))),))
    prompts = load_prompts(config.sampling.prompts)
    chosen = [prompts[index] for index in np.linspace(0, len(prompts) - 1, groups).astype(int)]
    reader = build_tiny_recogniser() if all("target" in prompt.metadata for prompt in chosen) else None
    for count in steps:
        sigmas = _grid(config, run.policy, count)
        for temperature in temperatures:
            behaviour = replace(
                config.sampling.behaviour(), sigmas=sigmas, temperatures=(temperature,) * count, branching=()
            )
            yield _measure(run, config, behaviour, temperature, chosen, reader)


def _grid(config: RunConfig, policy: Policy, num_steps: int) -> tuple[float, ...]:
    own = config.sampling
    known = {1: (1.0, 0.0), **{len(sigmas) - 1: sigmas for sigmas in reversed(own.grids)}}  # there is one of one step
    return known.get(num_steps) or policy.sigmas(num_steps, own.height, own.width)


def _steps(behaviour: Behaviour) -> range:
    return range(num_images(process_of(behaviour)))


def _measure(
    run: LoneRun,
    config: RunConfig,
    behaviour: Behaviour,
    temperature: float,
    prompts: Sequence[Prompt],
    reader: Reader | None,
) -> Setting:
    problem = None
    try:
        trained_transitions(process_of(behaviour))
    except ValueError as error:
        problem = str(error)
    samples = config.sampling.samples_per_group
    steps = _steps(behaviour)
    drawn = [run.group_at(prompt, behaviour, samples, index, UNTRAINED, steps) for index, prompt in enumerate(prompts)]
    scored = [group for group, _ in drawn]
    first = np.stack([group.rewards[0].values for group in scored])  # [groups, G, images]
    finals = first[:, :, -1].astype(np.float64)
    return Setting(
        num_steps=behaviour.num_steps,
        temperature=temperature,
        sigmas=behaviour.sigmas,
        images=len(scored) * samples,
        reward=tuple(float(value) for value in first.mean((0, 1))),
        spread=float(finals.std(1).mean()) / scored[0].rewards[0].span,
        silent_groups=float((np.ptp(finals, axis=1) == 0.0).mean()),
        diversity=tuple(float(value) for value in np.mean([group.group.diversity for group in scored], axis=0)),
        legibility=None if reader is None else _legibility(reader, drawn),
        problem=problem,
    )


def _legibility(reader: Reader, drawn: Sequence[tuple[ScoredGroup, StepImages]]) -> tuple[float, ...]:
    targets = [str(group.group.prompt.metadata["target"]) for group, images in drawn for _ in images.pixels]
    pixels = np.concatenate([images.pixels for _, images in drawn])
    return tuple(float(exact_match(reader, pixels[:, column], targets).mean()) for column in range(pixels.shape[1]))


def suggested(settings: Sequence[Setting]) -> Setting | None:
    """A start: of the settings that can be trained and whose final reward is at least GOOD_SHARE of the best one's,
    that with the largest spread of final rewards within a group, which is all that an advantage is made of. None where
    no setting can be trained or no group has any spread.
    """
    able = [setting for setting in settings if setting.problem is None and setting.spread > 0.0]
    if not able:
        return None
    best = max(setting.reward[-1] for setting in able)
    floor = best - (1.0 - GOOD_SHARE) * abs(best)
    return max((setting for setting in able if setting.reward[-1] >= floor), key=lambda setting: setting.spread)


def calibrate(
    config: RunConfig,
    temperatures: Sequence[float],
    steps: Sequence[int],
    groups: int,
    output: Path | None,
    console: Console,
) -> None:
    """Print the table, and the suggestion; write both as JSON where `output` says."""
    own = config.sampling.behaviour()
    try:
        for temperature in temperatures:
            process_of(replace(own, temperatures=(temperature,) * own.num_steps))
    except ValueError as error:
        raise ConfigError(f"--temperature: {error}") from error
    use_threads(config.fleet.rollout.cpus)
    settings = list(settings_of(config, temperatures, steps or (len(config.sampling.sigmas) - 1,), groups))
    start = suggested(settings)
    console.print(_table(config, settings, start))
    for problem in dict.fromkeys(setting.problem for setting in settings if setting.problem):
        console.print(f"not trainable: {problem}", highlight=False, soft_wrap=True)
    console.print(_sentence(start), highlight=False, soft_wrap=True)
    if output is not None:
        found = {"settings": [asdict(setting) for setting in settings], "suggested": start and asdict(start)}
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _sentence(start: Setting | None) -> str:
    if start is None:
        return (
            "no start is suggested: no setting can be trained or no group has any spread; the base model may be too "
            "weak or too good for this reward, or all temperatures too low"
        )
    grid = ", ".join(f"{sigma:.6g}" for sigma in start.sigmas)
    return f"a start: sampling.sigmas=[{grid}] sampling.temperature.start={start.temperature:g}"


def _table(config: RunConfig, settings: Sequence[Setting], start: Setting | None) -> Table:
    table = Table(
        "K", "tau", "reward by step", "spread", "silent", "diversity by step", "legible by step", title=config.name
    )
    for setting in settings:
        table.add_row(
            str(setting.num_steps),
            f"{setting.temperature:g}" + (" *" if setting is start else "") + (" !" if setting.problem else ""),
            _row(setting.reward),
            f"{setting.spread:.3f}",
            f"{setting.silent_groups:.0%}",
            _row(setting.diversity),
            "-" if setting.legibility is None else _row(setting.legibility),
        )
    table.caption = "* suggested  ! cannot be trained like this; silent: groups whose final rewards are all equal"
    return table


def _row(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
