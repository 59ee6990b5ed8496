"""How long an update takes and who waits, from latencies that were measured. No built-in figures, no torch.

A pipeline of three stages with as many servers as there are workers. In an update each stage is busy for

    rollout   groups_per_update x (sample + decode) / workers
    reward    groups_per_update x score / workers
    learner   update / ranks + publish

With max_staleness 0 the stages follow one another, but for what overlaps inside an update: groups are scored while
others are drawn. With more, all three work side by side and the slowest sets the pace. What is left out makes the truth
slower: starting and ending an update's groups, queues, uneven prompts, workers that share a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.config import RunConfig

LATENCIES = ("sample", "decode", "score", "update", "publish")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Seconds, as `tafs bench` measures them."""

    sample: float  # of a group by one worker
    decode: float  # likewise
    score: float  # likewise
    update: float  # of an update by one rank alone
    publish: float = 0.0  # of the new weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What follows from the latencies."""

    update_s: float  # from one update to the next
    images_per_s: float
    idle: Mapping[str, float]  # share of an update in which a role's workers wait


def pace(config: RunConfig, latencies: Latencies) -> Pace:
    """The pace of a run whose workers all have these latencies."""
    fleet, groups = config.fleet, config.learning.groups_per_update
    busy = {
        "rollout": groups * (latencies.sample + latencies.decode) / fleet.rollout.workers,
        "reward": groups * latencies.score / fleet.reward.workers,
        "learner": latencies.update / fleet.learner.workers + latencies.publish,
    }
    update_s = max(busy.values())
    if fleet.max_staleness == 0:
        update_s = drawn_and_scored(busy["rollout"], busy["reward"], groups) + busy["learner"]
    return Pace(
        update_s=update_s,
        images_per_s=groups * config.sampling.samples_per_group / update_s,
        idle={role: 1.0 - seconds / update_s for role, seconds in busy.items()},
    )


def drawn_and_scored(rollout: float, reward: float, groups: int) -> float:
    """Two stages with the groups one after another: the slower one, and one group's share of the other."""
    return max(rollout, reward) + min(rollout, reward) / groups


def parse_latencies(text: str) -> Latencies:
    """From `sample=1.2 decode=0.4 score=0.3 update=20`, in seconds. ValueError for anything else."""
    found = dict(re.findall(r"(\w+)=([0-9.eE+-]+)(?:\s|$)", text))
    known = set(LATENCIES)
    if not known - {"publish"} <= found.keys() <= known or len(found) != len(text.split()):
        raise ValueError(
            f"--latency: expected seconds, 'sample=1.2 decode=0.4 score=0.3 update=20' and publish where it counts, "
            f"found {text!r}; `tafs bench` measures them"
        )
    return Latencies(**{name: float(value) for name, value in found.items()})


def pace_lines(config: RunConfig, latencies: Latencies) -> Iterator[str]:
    """For `tafs check`."""
    found = pace(config, latencies)
    yield f"pace, from the given latencies: {found.update_s:.3g} s an update, {found.images_per_s:.3g} images/s at most"
    waits = ", ".join(f"{role} {share:.0%}" for role, share in found.idle.items())
    yield f"  waiting: {waits}"
