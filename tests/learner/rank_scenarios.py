"""What a rank does in the tests of several ranks, run once alone in the test and once by two processes.

`python -m tests.learner.rank_scenarios RANK SIZE RENDEZVOUS RESULT`
"""

import sys
from pathlib import Path

import numpy as np
import torch

from learner.guard import RatioGuardError
from learner.ranks import Alone, TorchRanks, all_agree
from learner.update import Learner
from tests.tiny_groups import (
    adapted_policy,
    behaviour,
    draw_group,
    draw_groups,
    fingerprint,
    flat_weights,
    gradient_after_one_step,
    spec,
    with_trajectory,
    with_values,
)

TIMEOUT_S = 60.0


def uneven_work(ranks):
    """27 pairs, of which those of one group teach nothing."""
    groups = draw_groups(adapted_policy(), 3, num_samples=3)
    groups[1] = with_values(groups[1], np.full((3, 4), 0.5))
    learner = Learner(adapted_policy(), spec(micro_batch=4), ranks)
    report = learner.update(groups, guard=True)
    return {"gradient": gradient_after_one_step(learner), "consumed": report.consumed, "trained": report.trained}


def several_optimizer_steps(ranks):
    """Two updates of three optimizer steps each."""
    learner = Learner(adapted_policy(), spec(optimizer_steps=3, rate=1e-3, mode="gae"), ranks)
    for index in range(2):
        groups = draw_groups(learner.policy, 2, first=2 * index, num_samples=3)
        learner.update(groups, guard=True)
    return {"weights": flat_weights(learner)}


def an_idle_rank(ranks):
    """Every second pair has an advantage, so that the second of two ranks has nothing to do."""
    groups = [draw_group(adapted_policy(), ordinal, how=behaviour(3)) for ordinal in range(2)]
    values = np.stack([np.arange(4.0), np.arange(4.0), np.ones(4)], axis=1)
    learner = Learner(adapted_policy(), spec(mode="next"), ranks)
    report = learner.update([with_values(group, values) for group in groups], guard=True)
    return {"gradient": gradient_after_one_step(learner), "skipped": report.skipped_fraction}


def spoiled_by(amount):
    """Groups whose second pair, the second rank's first, has another state than it was drawn from."""
    groups = draw_groups(adapted_policy(), 2, num_samples=3)
    states = groups[0].group.trajectory.states.clone()
    states[0, 1, 0, 0, 0] += amount
    groups[0] = with_trajectory(groups[0], states=states)
    return groups


def a_broken_guard(ranks):
    learner = Learner(adapted_policy(), spec(), ranks)
    before, said = fingerprint(learner), None
    try:
        learner.update(spoiled_by(0.1), guard=True)
    except RatioGuardError as error:
        said = str(error)
    return {"said": said, "unchanged": fingerprint(learner) == before}


def a_gradient_that_is_not_finite(ranks):
    learner = Learner(adapted_policy(), spec(), ranks)
    before = flat_weights(learner)
    report = learner.update(spoiled_by(float("nan")), guard=False)
    return {"trained": report.trained, "unchanged": torch.equal(flat_weights(learner), before)}


def votes(ranks):
    """Whether all agree, where all do, where the last does not, where none does."""
    last = ranks.rank == ranks.size - 1
    return {"agreed": [all_agree(ranks, vote) for vote in (True, not last, False)]}


SCENARIOS = (
    uneven_work,
    several_optimizer_steps,
    an_idle_rank,
    a_broken_guard,
    a_gradient_that_is_not_finite,
    votes,
)


def play(ranks):
    """Every scenario's outcome by its name."""
    return {scenario.__name__: scenario(ranks) for scenario in SCENARIOS}


def main(rank, size, rendezvous, result):
    torch.set_num_threads(1)
    ranks = TorchRanks(f"file://{rendezvous}", int(rank), int(size), "gloo", TIMEOUT_S)
    outcome = play(ranks)
    ranks.close()
    torch.save(outcome, Path(result))


def play_alone():
    return play(Alone())


if __name__ == "__main__":
    main(*sys.argv[1:])
