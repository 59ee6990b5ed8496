"""What a rollout engine that computes a little differently does to a ratio: clip fractions, the guard, learning.

    python -m tests.ablation.engine_noise [--dimensions 100 10000 1000000] [--updates 12] [--out FILE]

The engine's velocities are those of the learner times (1 + eps xi), xi standard normal in every dimension. The problem:
v = x + theta u with a fixed u of D dimensions, 4 steps at temperature 1, the reward is the final image along u. Three
ways to form the ratio, each with the clip c of the run file's default:

    plain      log density difference, from the engine's means, c / sqrt(D)      Flow-GRPO
    centred    without its bias -r^2 / 2, from the engine's means, c / sqrt(D)   GRPO-Guard
    ours       centred, from the learner's own means when the update began, equal in v

*clipped* is the share of pairs that are cut off before anything was learned, when no pair should be; *of them A < 0*
says how one-sided that is; *learned* is how far theta came in so many updates of four optimizer steps, as a share of
what "ours" comes without noise (up to 100,000 dimensions; mean of six seeds at least).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learner.batching import Pairs, build_pairs
from learner.guard import TOLERANCE
from learner.loss import Objective, behaviour_means, drift, means, pair_loss
from rollout.policy import Conditions
from rollout.process import process_of
from rollout.sampler import sample
from rollout.types import Prompt, RolloutGroup, ScoredGroup, StepRewards
from tests.linear_chain import NAMELESS, chain_behaviour

BEHAVIOUR = chain_behaviour((1.0, 0.75, 0.5, 0.25, 0.0), (1.0,) * 4)
G = 12
C = 1.0
RATE = 0.02
LEARNED_UP_TO = 100_000
FORMS = {
    "plain": Objective(ratio="plain", clip_form="constant"),
    "centred": Objective(ratio="centred", clip_form="constant"),
    "ours": Objective(),
}


@dataclass(eq=False)
class Engine:
    """v = C x + theta u, times (1 + eps xi)."""

    u: Tensor  # [1, 1, 1, D], +-1
    theta: Tensor
    eps: float
    generator: torch.Generator

    def encode(self, prompts: list[str]) -> Conditions:
        return Conditions({"prompt": torch.zeros(len(prompts), 1)})

    def velocity(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        v = C * x + self.theta * self.u
        return v * (1.0 + self.eps * torch.randn(v.shape, generator=self.generator)) if self.eps else v


def draw(engine: Engine) -> Pairs:
    """One group's pairs with terminal advantages."""
    shape = (G, *engine.u.shape[1:])
    conditions = engine.encode([""]).take([0] * G)
    process = process_of(BEHAVIOUR)
    drawn = sample(engine, conditions, process, lambda step: torch.randn(shape, generator=engine.generator))
    final = (drawn.clean[:, -1] * engine.u).flatten(1).mean(1).numpy().astype(np.float64)
    advantage = np.repeat(((final - final.mean()) / final.std())[:, None], 3, axis=1)
    values = np.repeat(final[:, None], drawn.clean.shape[1], axis=1)
    reward = StepRewards(name="along_u", range=(-1.0, 1.0), values=values, scored=np.ones(4, dtype=bool))
    prompt = Prompt(id="0", text="")
    group = RolloutGroup(ordinal=0, attempt=0, prompt=prompt, behaviour=BEHAVIOUR, weights=NAMELESS,
                         trajectory=drawn.trajectory)  # fmt: skip
    return build_pairs([ScoredGroup(group=group, rewards=(reward,))], [advantage])


def engine_velocity(pairs: Pairs) -> Tensor:
    """What the engine computed, from the means it drew around."""
    rest = behaviour_means(pairs) - pairs.state_gain.view(-1, 1, 1, 1) * pairs.states
    return rest / pairs.velocity_gain.view(-1, 1, 1, 1)


def anchor_of(name: str, pairs: Pairs, engine: Engine) -> Tensor:
    return C * pairs.states + engine.theta.detach() * engine.u if name == "ours" else engine_velocity(pairs)


def first_look(engine: Engine, name: str, groups: int) -> tuple[float, float, float]:
    """Before anything is learned: the share of pairs clipped, of these with a negative advantage, the largest drift."""
    clipped, negative, total, worst = 0, 0, 0, 0.0
    for _ in range(groups):
        pairs = draw(engine)
        v = C * pairs.states + engine.theta * engine.u
        result = pair_loss(pairs, v, anchor_of(name, pairs, engine), None, FORMS[name])
        clipped += int(result.clipped.sum())
        negative += int((result.clipped & (pairs.advantage < 0.0)).sum())
        total += len(pairs)
        worst = max(worst, float(drift(behaviour_means(pairs), means(pairs, v), pairs.std).max()))
    return clipped / total, negative / clipped if clipped else float("nan"), worst


def learned(engine: Engine, name: str, updates: int) -> float:
    """How far theta came; the reward rises with -theta."""
    scale = RATE * engine.u.numel() ** 0.5
    for _ in range(updates):
        pairs = draw(engine)
        anchor = anchor_of(name, pairs, engine)
        for _ in range(4):
            theta = engine.theta.detach().requires_grad_()
            result = pair_loss(pairs, C * pairs.states + theta * engine.u, anchor, None, FORMS[name])
            (gradient,) = torch.autograd.grad(result.loss.mean(), theta)
            engine.theta = engine.theta - scale * gradient
    return -float(engine.theta)


def engine(dimensions: int, eps: float, seed: int) -> Engine:
    generator = torch.Generator().manual_seed(seed)
    u = torch.randint(0, 2, (1, 1, 1, dimensions), generator=generator).float() * 2.0 - 1.0
    return Engine(u, torch.zeros(()), eps, generator)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    head = ("D", "engine noise", "drift", "guard", *(f"{name}: clipped (of them A < 0)" for name in FORMS),
            *(f"{name}: learned" for name in FORMS))  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    print("\n".join(lines), flush=True)
    for dimensions in arguments.dimensions:
        groups = max(1, min(40, 1_000_000 // dimensions))
        full = 0.0  # the way of "ours" without noise
        for eps in (0.0, 0.001, 0.01):
            looks = {name: first_look(engine(dimensions, eps, 1), name, groups) for name in FORMS}
            worst = looks["plain"][2]
            holds = [str(kind).removeprefix("torch.") for kind, most in TOLERANCE.items() if worst <= most]
            cells = [f"{dimensions:,}", f"{eps:.1%}", f"{worst:.1e}", ", ".join(holds) or "refused"]
            cells += [f"{share:.2f}" + (f" ({low:.2f})" if share else "") for share, low, _ in looks.values()]
            seeds = range(max(6, min(24, 10_000 // dimensions)) if dimensions <= LEARNED_UP_TO else 0)
            ways = [[learned(engine(dimensions, eps, s), name, arguments.updates) for s in seeds] for name in FORMS]
            full = full or float(np.mean(ways[-1])) if seeds else 0.0
            cells += [f"{np.mean(way) / full:.2f}" if way else "-" for way in ways]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
