"""A simulated fleet: the real controller and supervisor over real queues, whose account adds up at the end."""

from pathlib import Path

import pytest

from services.cli.bench_fleet import simulate
from services.cli.run_file import load_run_file
from services.fleet.workers.simulated import Latencies, shares

QUICKSTART = Path(__file__).resolve().parents[3] / "deploy/configs/quickstart.yaml"


QUICK = Latencies(draw_s=0.1, score_s=0.02, update_s=0.05, latents_bytes=1024, images_bytes=1024, weights_bytes=4096)


@pytest.mark.integration
def test_a_simulated_fleet_makes_its_updates_and_its_controller_has_a_price() -> None:
    config = load_run_file(
        QUICKSTART, ["fleet.rollout.workers=6", "fleet.reward.workers=2", "learning.groups_per_update=6"]
    )
    found = simulate(config, QUICK, updates=4)
    assert (found.rollouts, found.rewards, found.groups) == (6, 2, 24)
    assert found.seconds > 4 * 0.05
    assert 0 < found.controller_ms < 1000
    assert 0 <= found.wait < 1


@pytest.mark.slow
@pytest.mark.integration
def test_the_same_fleet_works_as_actors_of_ray() -> None:
    config = load_run_file(
        QUICKSTART, ["fleet.rollout.workers=2", "fleet.reward.workers=1", "learning.groups_per_update=4"]
    )
    found = simulate(config, QUICK, updates=2, actors=True)
    assert (found.workers, found.groups) == ("Ray actors", 8)
    assert found.controller_ms > 0


def test_workers_are_dealt_out_to_processes_each_once() -> None:
    slots = [f"rollout-{index}" for index in range(7)]
    dealt = shares(slots, 3)
    assert sorted(slot for share in dealt for slot in share) == sorted(slots)
    assert [len(share) for share in dealt] == [3, 2, 2]
