from pathlib import Path

import numpy as np
import pytest

from services.cli.run_file import load_run_file
from services.fleet.run.alone import LoneRun
from services.fleet.workers.placed_rewards import build_rewards

ROOT = Path(__file__).resolve().parents[4]
SHUFFLED = "learning.advantage.shuffle_rewards=true"


@pytest.fixture(scope="module")
def learned_from():
    """What the learner gets in an update, as it is drawn and with shuffled rewards."""

    def groups(*overrides):
        config = load_run_file(
            ROOT / "deploy/configs/quickstart.yaml",
            ["sampling.samples_per_group=4", "learning.groups_per_update=2", "evaluation=null", *overrides],
        )
        run = LoneRun(config, build_rewards(config))
        given, update = [], run.learner.update
        run.learner.update = lambda groups, guard: given.extend(groups) or update(groups, guard=guard)
        run.update()
        return given

    return groups(), groups(SHUFFLED)


def test_shuffled_rewards_are_the_same_ones_at_other_samples(learned_from):
    plain, control = ([group.rewards[0].values for group in groups] for groups in learned_from)
    assert any(not np.array_equal(a, b) for a, b in zip(plain, control, strict=True))
    for a, b in zip(plain, control, strict=True):
        assert sorted(map(tuple, a.tolist())) == sorted(map(tuple, b.tolist()))


def test_a_run_that_goes_on_from_a_learners_tensors_draws_what_that_one_would_have_drawn():
    small = ["sampling.samples_per_group=2", "learning.groups_per_update=1", "evaluation=null"]
    config = load_run_file(ROOT / "deploy/configs/quickstart.yaml", small)
    first, second = (LoneRun(config, build_rewards(config)) for _ in range(2))
    first.update()
    second.load(first.learner.tensors(), 1)
    (wanted,), (found,) = first.drawn(), second.drawn()
    assert found.group.weights == wanted.group.weights
    assert found.group.ordinal == 1
    assert found.group.trajectory.actions.equal(wanted.group.trajectory.actions)
