"""The gradient's signal-to-noise ratio on the quickstart model: how many groups an update needs.

    python -m tests.ablation.snr_quickstart [--updates 64] [--methods NAME:TEMPERATURE ...] [--after 0]
        [--transitions] [--towards NAME:TEMPERATURE] [--settings KEY=VALUE ...] [--out FILE]

Every method draws the same number of updates (of two groups each, if --settings says nothing else) at the untrained
adapter, or where --after so many updates of the first method have led; its weights are put back after each. With
--transitions the gradient of each transition alone has a row, too. With g_i an update's gradient, as it is before
clipping, |E g|^2 is estimated without bias by the mean of g_i . g_j over i != j, the noise by what is left of the mean
of |g_i|^2. *groups* is how many have to be averaged until the noise is as small as the gradient; its interval is a
jackknife's, by updates. The cosine is that between the mean gradients of the method and of the first one, over the
square root of what of each is signal.

A gradient may be sure of a way that leads nowhere. *progress* tells how far an optimizer step of one length, most of it
noise, goes along the gradient G of --towards, estimated on as many groups again: <E P g, G> / sqrt(E |P (g - E g)|^2),
over the first method's. P is AdamW's division by the root of the second moments that --after has left; at the untrained
adapter there are none, and P is 1. Its interval is that of the method's own updates; G's errors are common to all rows.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.ranks import Alone
from rollout.types import ScoredGroup, Trajectory
from services.cli.run_file import load_run_file
from services.config import RunConfig
from services.fleet.run.alone import LoneRun
from services.fleet.workers.placed_rewards import build_rewards
from tests.ablation.arms import ARMS
from tests.ablation.study import BARE, ROOT, temperature

RUN_FILE = ROOT / "deploy/configs/quickstart.yaml"
METHODS = (
    ("step_aware", 1.0),
    ("terminal", 1.0),
    ("control_variate", 1.0),
    ("same_step", 1.0),
    ("branching", 1.0),
    ("step_aware", 0.5),
    ("terminal", 0.5),
    ("flow_sde_terminal", 0.7),
    ("flow_sde_step_aware", 0.7),
    ("dance_sde", 0.6),
    ("x0_space", 1.0),
)
"""Arms and the temperature, or noise level, that they draw with; those of one sampler one after another."""


class Ear(Alone):
    """A single rank that keeps every gradient, of `parameters` numbers, that it is asked to sum."""

    def __init__(self, parameters: int) -> None:
        self._parameters = parameters
        self.heard: list[NDArray[np.float32]] = []

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        if tensor.numel() == self._parameters:
            self.heard.append(tensor.numpy().copy())
        return tensor


Start = Mapping[str, Mapping[str, Tensor]]
"""A learner's tensors."""


def trained(config: RunConfig, updates: int) -> Start:
    """Where so many updates lead."""
    run = LoneRun(config, build_rewards(config))
    for _ in range(updates):
        run.update()
    tensors = run.learner.tensors().items()
    return {part: {key: tensor.clone() for key, tensor in found.items()} for part, found in tensors}


def alone(group: ScoredGroup, place: int) -> ScoredGroup:
    """The group with a single one of its transitions."""
    whole = group.group.trajectory
    kept = Trajectory(
        transitions=whole.transitions[place : place + 1],
        states=whole.states[:, place : place + 1],
        actions=whole.actions[:, place : place + 1],
        noise=whole.noise[:, place : place + 1],
    )
    return replace(group, group=replace(group.group, trajectory=kept))


def gradients(
    config: RunConfig,
    updates: range,
    drawn: dict[str, list[list[ScoredGroup]]],
    start: Start,
    *,
    transitions: bool,
) -> dict[str, NDArray[np.float32]]:
    """[updates, parameters] by title: of all transitions, and where wanted of each alone. updates: whose groups are
    drawn. drawn: groups by sampler and steps scored, filled and used again.
    """
    run = LoneRun(config, build_rewards(config))
    learner = run.learner
    run.load(start, updates.start)
    key = f"{config.sampling.model_dump_json()} {config.steps_scored(config.sampling.constant_behaviour(1.0))}"
    if key not in drawn:
        drawn.clear()
        drawn[key] = []
        for update in updates:
            learner.updates_done = update
            drawn[key].append(run.drawn())
    places = range(len(drawn[key][0][0].group.trajectory.transitions)) if transitions else ()
    found = {}
    for place in (None, *places):
        ear = Ear(sum(parameter.numel() for parameter in learner.parameters.values()))
        learner.ranks = ear
        for update, groups in zip(updates, drawn[key], strict=True):
            learner.load(start, update)
            parts = groups if place is None else [alone(group, place) for group in groups]
            learner.update(parts, guard=update == updates.start)
        found["" if place is None else f", transition {place}"] = np.array(ear.heard)
    return found


def config_of(name: str, heat: float, settings: Sequence[str]) -> RunConfig:
    """The run file of an arm that draws with this temperature."""
    arm = ARMS[name]
    return load_run_file(RUN_FILE, [*BARE, *settings, *arm.overrides, *(arm.fixed or (temperature(heat),))])


def method(text: str) -> tuple[str, float]:
    """NAME:TEMPERATURE."""
    name, _, heat = text.partition(":")
    if name not in ARMS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(ARMS)}, found {name!r}")
    return name, float(heat or 1.0)


def signal_and_noise(products: NDArray[np.float64]) -> tuple[float, float]:
    """|E g|^2 and E |g - E g|^2 from the Gram matrix of independent gradients."""
    count = len(products)
    size = float(np.trace(products)) / count
    signal = (float(products.sum()) - size * count) / (count * (count - 1))
    return signal, size - signal


def groups_needed(products: NDArray[np.float64], groups: int) -> tuple[float, float]:
    """How many groups until noise = signal, infinity where there is no signal, and the half width of the logarithm's
    95 % interval (jackknife).
    """

    def logarithm(rows: NDArray[np.int_]) -> float:
        signal, noise = signal_and_noise(products[np.ix_(rows, rows)])
        return math.log(groups * noise / signal) if signal > 0.0 else math.inf

    every = np.arange(len(products))
    without = np.array([logarithm(np.delete(every, row)) for row in every])
    spread = math.sqrt((len(every) - 1) * without.var()) if np.isfinite(without).all() else math.inf
    return math.exp(logarithm(every)), 1.96 * spread


def cosine(mine: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Between the two mean gradients, freed of their noise; both of the same prompts and initial noises."""
    signals = [signal_and_noise((g @ g.T).astype(np.float64))[0] for g in (mine, other)]
    cross = (mine @ other.T).astype(np.float64)
    count = len(cross)
    shared = (float(cross.sum()) - float(np.trace(cross))) / (count * (count - 1))
    return shared / math.sqrt(signals[0] * signals[1]) if min(signals) > 0.0 else math.nan


def second_moments(start: Start) -> NDArray[np.float32]:
    """AdamW's running means of squared gradients, one number per parameter; ones before its first step."""
    moments = [tensor.numpy().ravel() for key, tensor in start["optimizer"].items() if key.endswith("/exp_avg_sq")]
    sizes = sum(tensor.numel() for tensor in start["trained"].values())
    return np.concatenate(moments) if moments else np.ones(sizes, dtype=np.float32)


def progress(
    mine: NDArray[np.float32], towards: NDArray[np.float32], moments: NDArray[np.float32]
) -> tuple[float, float]:
    """How far a step of the noise's length goes along the mean of `towards`, and its standard error by `mine`'s rows.
    The two are of independent groups."""
    steps = mine / np.sqrt(moments)
    _, noise = signal_and_noise((steps @ steps.T).astype(np.float64))
    ways = (steps @ towards.mean(0)).astype(np.float64) / math.sqrt(noise)
    return float(ways.mean()), float(ways.std(ddof=1)) / math.sqrt(len(ways))


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=64)
    parser.add_argument("--methods", nargs="+", type=method, default=METHODS, metavar="NAME:TEMPERATURE")
    parser.add_argument("--after", type=int, default=0, help="updates of the first method")
    parser.add_argument("--transitions", action="store_true", help="each transition's gradient alone, too")
    parser.add_argument("--towards", type=method, metavar="NAME:TEMPERATURE", help="whose gradient is the way to go")
    parser.add_argument("--settings", nargs="*", default=[], help="settings for all: dotted.key=value")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| method | temperature | groups until noise = signal | 95 % | cosine with the first | progress |",
        "|---" * 6 + "|",
    ]
    drawn: dict[str, list[list[ScoredGroup]]] = {}
    default: NDArray[np.float32] | None = None
    first = math.nan
    updates = range(arguments.after, arguments.after + arguments.updates)  # of groups that were not trained on
    others = range(updates.stop, updates.stop + arguments.updates)
    name, heat = arguments.methods[0]
    start = trained(config_of(name, heat, arguments.settings), arguments.after)
    moments = second_moments(start)
    towards: NDArray[np.float32] | None = None
    if arguments.towards:
        config = config_of(*arguments.towards, arguments.settings)
        towards = gradients(config, others, {}, start, transitions=False)[""]
    for name, heat in arguments.methods:
        config = config_of(name, heat, arguments.settings)
        found = gradients(config, updates, drawn, start, transitions=arguments.transitions)
        for part, rows in found.items():
            default = rows if default is None else default
            needed, half = groups_needed((rows @ rows.T).astype(np.float64), config.learning.groups_per_update)
            ends = "-" if math.isinf(half) else f"{needed / math.exp(half):.1f} to {needed * math.exp(half):.1f}"
            way = "-"
            if towards is not None:
                mean, error = progress(rows, towards, moments)
                first = mean if math.isnan(first) else first
                way = f"{mean / first:.2f} ± {1.96 * error / first:.2f}"
            lines.append(f"| {name}{part} | {heat:g} | {needed:.1f} | {ends} | {cosine(rows, default):.2f} | {way} |")
            print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
