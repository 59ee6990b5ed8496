"""The gradient's signal-to-noise ratio where the gradient is known: what each part of the method is worth.

    python -m tests.ablation.snr [--groups 3000] [--out FILE]

The problem is the linear chain of tests/linear_chain.py at 4 steps: v = theta[step] + C x, the reward is the image.
Every estimate is that of one group of 12 samples, before any normalisation. Reported for each transition that all
methods train (0, 1, 2): its mean over the true gradient of the final image (1 = unbiased), and how many groups have to
be averaged until the noise is as small as the gradient; the fewer, the better. Last, the network calls of a group.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from learner.advantage import build_credit
from learner.combination import Weighting, group_advantages
from rollout.branching import network_calls
from rollout.types import Behaviour
from tests.linear_chain import chain_behaviour, draw_chain, per_sample_gradients, true_gradient

GRID = (1.0, 0.75, 0.5, 0.25, 0.0)
G = 12
ALONE = {"image": Weighting()}
CREDITS = {
    "terminal": build_credit("terminal", 1.0, 1.0, 0.0, "none"),
    "gae(1)": build_credit("gae", 1.0, 1.0, 0.0, "none"),
    "control_variate": build_credit("control_variate", 1.0, 1.0, 0.0, "none"),
    "gae(0)": build_credit("gae", 0.0, 1.0, 0.0, "none"),
    "gain": build_credit("gain", 1.0, 1.0, 0.0, "none"),
    "same_step (trap)": build_credit("same_step", 1.0, 1.0, 0.0, "none"),
}


def behaviours() -> dict[str, Behaviour]:
    """What the samples are drawn with."""
    one = {f"annealed {tau:g}": chain_behaviour(GRID, (tau,) * 4) for tau in (0.3, 0.5, 0.75, 1.0)}
    return one | {
        "flow_sde 0.7": chain_behaviour(GRID, (0.7,) * 4, kernel="flow_sde"),
        "dance_sde 0.3": chain_behaviour(GRID, (0.3,) * 4, kernel="dance_sde"),
        "annealed 1, branching 4 1 3": chain_behaviour(GRID, (1.0,) * 4, branching=(4, 1, 3)),
        "annealed 1, branching 2 2 3": chain_behaviour(GRID, (1.0,) * 4, branching=(2, 2, 3)),
        "annealed 1, one x[0], 3 2 2": chain_behaviour(GRID, (1.0,) * 4, branching=(1, 3, 2, 2)),
    }


def measured(behaviour: Behaviour, credit: str, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """[3] the mean over the true gradient, and the groups needed for a signal as large as the noise."""
    drawn = [draw_chain(behaviour, G, seed) for seed in range(groups)]
    parts = []
    for start in range(0, groups, 16):  # as many groups as an update has, for what is estimated on the others
        batch = drawn[start : start + 16]
        for scored, table in zip(batch, group_advantages(batch, CREDITS[credit], ALONE, 1), strict=True):
            parts.append(per_sample_gradients(scored, table).mean(0))
    found = np.array(parts) * (1.0 if behaviour.branching else G / (G - 1))  # the mean includes the sample itself
    truth = true_gradient(behaviour)[:3]
    return found.mean(0) / truth, found.var(0) / truth**2


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=3000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["| samples | credit | bias 0 | 1 | 2 | groups needed 0 | 1 | 2 | calls per group |", "|" + "---|" * 9]
    for name, behaviour in behaviours().items():
        calls = network_calls(behaviour.branching, G, 4)
        for credit in CREDITS if name == "annealed 1" else ("terminal", "control_variate"):
            bias, needed = measured(behaviour, credit, arguments.groups)
            cells = [
                name,
                credit,
                *(f"{value:.2f}" for value in bias),
                *(f"{value:.2f}" for value in needed),
                str(calls),
            ]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    text = "\n".join(lines)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
