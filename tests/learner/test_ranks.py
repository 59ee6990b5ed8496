import subprocess
import sys
from pathlib import Path

import pytest
import torch

from learner.ranks import Alone, all_agree
from tests.learner.rank_scenarios import TIMEOUT_S, play_alone

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.integration  # two processes


@pytest.fixture(scope="module")
def alone():
    return play_alone()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two gloo processes made of the scenarios."""
    folder = tmp_path_factory.mktemp("ranks")
    results = [folder / f"rank_{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.learner.rank_scenarios", str(rank), "2", str(folder / "meet"), str(result)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, result in enumerate(results)
    ]
    try:
        for process in processes:
            _, said = process.communicate(timeout=2 * TIMEOUT_S)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
    return [torch.load(result) for result in results]


def test_two_ranks_with_uneven_work_have_one_ranks_gradient_and_consume_the_same_groups(alone, both):
    for rank in both:
        torch.testing.assert_close(
            rank["uneven_work"]["gradient"], alone["uneven_work"]["gradient"], atol=1e-6, rtol=1e-5
        )
        assert rank["uneven_work"]["consumed"] == alone["uneven_work"]["consumed"] == (0, 1, 2)
        assert rank["uneven_work"]["trained"]


def test_two_ranks_have_one_ranks_weights_after_several_optimizer_steps(alone, both):
    for rank in both:
        torch.testing.assert_close(
            rank["several_optimizer_steps"]["weights"],
            alone["several_optimizer_steps"]["weights"],
            atol=1e-6,
            rtol=1e-5,
        )


def test_ranks_stay_bit_equal_to_each_other(both):
    first, second = both
    for scenario in ("uneven_work", "several_optimizer_steps", "an_idle_rank"):
        for name, value in first[scenario].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, second[scenario][name])


def test_a_rank_with_nothing_to_do_still_takes_part(alone, both):
    for rank in both:
        torch.testing.assert_close(rank["an_idle_rank"]["gradient"], alone["an_idle_rank"]["gradient"])
    assert float(alone["an_idle_rank"]["gradient"].norm()) > 0.0
    assert alone["an_idle_rank"]["skipped"] == 0.5
    assert [rank["an_idle_rank"]["skipped"] for rank in both] == [0.5, 0.5], "the report is of all ranks"


def test_a_guard_that_breaks_on_one_rank_stops_all_of_them_before_anything_is_changed(both):
    assert both[0]["a_broken_guard"]["said"] == "another rank's ratio guard is broken; its message tells where"
    assert both[1]["a_broken_guard"]["said"].startswith("step 1: ")
    assert all(rank["a_broken_guard"]["unchanged"] for rank in both)


def test_a_gradient_that_is_not_finite_on_one_rank_trains_none(both):
    for rank in both:
        assert rank["a_gradient_that_is_not_finite"] == {"trained": False, "unchanged": True}


def test_ranks_agree_only_where_every_one_says_yes(both):
    assert [rank["votes"]["agreed"] for rank in both] == [[True, False, False]] * 2


def test_one_rank_sums_to_itself_and_agrees_with_itself():
    tensor = torch.tensor([1.0, 2.0])
    assert Alone().sum(tensor) is tensor
    assert all_agree(Alone(), True)
    assert not all_agree(Alone(), False)
