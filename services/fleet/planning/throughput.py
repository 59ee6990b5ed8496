"""How long an update takes and who waits, from latencies that were measured. No built-in figures, no torch.

A pipeline of three stages with as many servers as there are workers. In an update each stage is busy for

    rollout   groups_per_update x (sample + decode) / workers
    reward    groups_per_update x score / workers
    learner   update / ranks + publish

All three work side by side and the slowest sets the pace, as far as max_staleness lets them: an update's groups are
drawn, the last of them scored, and the update made, in no less than the time of max_staleness + 1 updates. So with 0
the stages follow one another, but for what overlaps inside an update: groups are scored while others are drawn. What
is left out makes the truth slower: queues, uneven prompts, workers that share a GPU.
"""

from __future__ import annotations

import math
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
    lap_s = drawn_and_scored(config, latencies) + busy["learner"]
    update_s = max(*busy.values(), lap_s / (fleet.max_staleness + 1))
    return Pace(
        update_s=update_s,
        images_per_s=groups * config.sampling.samples_per_group / update_s,
        idle={role: 1.0 - seconds / update_s for role, seconds in busy.items()},
    )


def drawn_and_scored(config: RunConfig, latencies: Latencies) -> float:
    """Seconds from the first ticket of an update to its last score, with nothing else to do: the groups are drawn in
    waves, and scored as they come; either the last wave has to be scored yet, or the rewards were busy since the first.
    """
    fleet, groups = config.fleet, config.learning.groups_per_update
    draw_s, rollouts, rewards = latencies.sample + latencies.decode, fleet.rollout.workers, fleet.reward.workers
    waves = math.ceil(groups / rollouts)
    last = groups - (waves - 1) * rollouts
    return max(
        waves * draw_s + math.ceil(last / rewards) * latencies.score,
        draw_s + math.ceil(groups / rewards) * latencies.score,
    )


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
