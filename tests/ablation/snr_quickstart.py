"""The gradient's signal-to-noise ratio on the quickstart model: how many groups an update needs.

    python -m tests.ablation.snr_quickstart [--updates 64] [--methods NAME:TEMPERATURE ...]
        [--settings KEY=VALUE ...] [--out FILE]

Every method draws the same number of updates (of two groups each, if --settings says nothing else) at the untrained
adapter, whose weights are put back after each. With g_i an update's gradient, as it is before clipping, |E g|^2 is
estimated without bias by the mean of g_i . g_j over i != j, the noise by what is left of the mean of |g_i|^2. *groups*
is how many have to be averaged until the noise is as small as the gradient; its interval is a jackknife's, by updates.
The cosine is that between the mean gradients of the method and of the first one, over the square root of what of each
is signal.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.ranks import Alone
from rollout.types import ScoredGroup
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


def gradients(config: RunConfig, updates: int, drawn: dict[str, list[list[ScoredGroup]]]) -> NDArray[np.float32]:
    """[updates, parameters]. drawn: groups by sampler and steps scored, filled and used again."""
    run = LoneRun(config, build_rewards(config))
    learner = run.learner
    ear = Ear(sum(parameter.numel() for parameter in learner.parameters.values()))
    start = {
        part: {key: tensor.clone() for key, tensor in tensors.items()} for part, tensors in learner.tensors().items()
    }
    learner.ranks = ear
    key = f"{config.sampling.model_dump_json()} {config.steps_scored(config.sampling.constant_behaviour(1.0))}"
    if key not in drawn:
        drawn.clear()
        drawn[key] = []
        for update in range(updates):
            learner.updates_done = update
            drawn[key].append(run.drawn())
    for update, groups in enumerate(drawn[key]):
        learner.load(start, update)
        learner.update(groups, guard=update == 0)
    return np.array(ear.heard)


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


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=64)
    parser.add_argument("--methods", nargs="+", type=method, default=METHODS, metavar="NAME:TEMPERATURE")
    parser.add_argument("--settings", nargs="*", default=[], help="settings for all: dotted.key=value")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| method | temperature | groups until noise = signal | 95 % | cosine with the first |",
        "|---" * 5 + "|",
    ]
    drawn: dict[str, list[list[ScoredGroup]]] = {}
    default: NDArray[np.float32] | None = None
    for name, heat in arguments.methods:
        config = config_of(name, heat, arguments.settings)
        found = gradients(config, arguments.updates, drawn)
        default = found if default is None else default
        needed, half = groups_needed((found @ found.T).astype(np.float64), config.learning.groups_per_update)
        ends = "-" if math.isinf(half) else f"{needed / math.exp(half):.1f} to {needed * math.exp(half):.1f}"
        lines.append(f"| {name} | {heat:g} | {needed:.1f} | {ends} | {cosine(found, default):.2f} |")
        print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
