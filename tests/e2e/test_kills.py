"""Workers killed for real, in the middle of a run: it goes on, and ends with the very weights of an undisturbed one."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from services.fleet.failpoints import VARIABLE

from .conftest import DEADLINE_S, carried_out
from .going import LONG, Going, assert_equal_to, assert_trained_once, failpoints, killed_run, recoveries

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3 * DEADLINE_S)]


RECORDED = "fleet.record={}"
MEASURED = "evaluation={prompts: deploy/quickstart/prompts/held_out.jsonl, images: 108}"
EQUAL = "beside the run's checkpoint of update 8: trained equal, average equal, optimizer equal"


def replay(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """`tafs replay`, on as many threads as the run's learner had."""
    return carried_out([sys.executable, "-m", "services", "replay", str(folder), *options])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of an undisturbed run."""
    going = killed_run(tmp_path_factory.mktemp("undisturbed"), "whole", {}, *LONG)
    assert going.process.returncode == 0, going.log.read_text()
    return going.folder


def test_workers_of_every_role_killed_where_it_hurts_most_are_replaced_and_change_nothing(tmp_path, whole) -> None:
    """A group drawn and not published, one scored and not published, an update made and not published, and a checkpoint
    without its manifest; `make chaos` has the other places. The checkpoints are at a URL, in a store that is not asked
    for renames: fsspec's `dir` makes one of files.
    """
    url = f"dir::file://{tmp_path}/elsewhere"
    strikes = {"rollout.drawn": 2, "reward.scored": 3, "learner.stepped": 2, "checkpoint.files": 1}
    going = Going(
        tmp_path, "killed", *LONG, RECORDED, f"fleet.checkpoints={url}", **failpoints(tmp_path / "marks", strikes)
    )
    going.checkpoints = f"{url}/killed"
    try:
        log = going.end()
    finally:
        going.close()
    assert going.process.returncode == 0, log
    assert {mark.name for mark in (tmp_path / "marks").iterdir()} == set(strikes), log
    assert "the learner is back" in log
    assert_equal_to(going, whole)
    assert_trained_once(going)
    assert {role for role, _ in recoveries(log)} >= {"reward", "learner"}, log  # `make chaos` asks how soon
    again = replay(going.folder)
    assert again.returncode == 0, again.stdout
    assert "from the start, without Ray" in again.stdout
    assert again.stdout.count("began equal") == 8
    assert EQUAL in again.stdout
    assert not (going.folder / "checkpoints").exists()


def test_a_server_that_dies_is_started_again_and_changes_nothing(tmp_path, whole) -> None:
    """Between two updates; behind the last one, when only the end is to be told and the average published; and when it
    is published, and forgotten before the rollout workers measure it: their shares are the learner's then.
    """
    marks = tmp_path / "marks"
    marks.mkdir()
    stops = {VARIABLE: f"{marks}=driver.consumed:8=stop,end.published:1=stop"}
    going = Going(tmp_path, "forgetful", *LONG, MEASURED, **stops)
    try:
        going.wait_for(lambda: going.update() >= 2, "update 2")
        going.server().kill()
        for place in ("driver.consumed", "end.published"):
            going.wait_for((marks / place).exists, f"the driver's stop at {place}")
            going.server().kill()
            going.process.send_signal(signal.SIGCONT)
        going.end()
    finally:
        going.close()
    log = going.log.read_text()
    assert going.process.returncode == 0, log
    assert log.count("the run's own server died, and was started again") == 3
    assert "the server lost the run, whose end is written there" in log
    assert [share for share in (1, 2) if f"share {share} of the evaluation is drawn again" in log] == [1, 2], log
    summary = json.loads((going.folder / "summary.json").read_text())
    assert summary["exact_match"]["serving"]["images"] == {"before": 108, "after": 108}, summary
    assert_equal_to(going, whole)
    assert_trained_once(going)


@pytest.mark.slow
def test_a_worker_that_hangs_is_found_by_its_silence_and_replaced(tmp_path, whole) -> None:
    quick = ("fleet.supervision.suspect_after_s=3", "fleet.supervision.dead_after_s=8")
    going = killed_run(tmp_path, "stopped", {1: ("rollout-1", signal.SIGSTOP)}, *LONG, *quick)
    log = going.log.read_text()
    assert going.process.returncode == 0, log
    assert "no heartbeat for" in log
    assert "no answer in" in next((going.folder / "stacks").glob("*.txt")).read_text()
    assert_equal_to(going, whole)
    assert_trained_once(going)


@pytest.mark.slow
def test_a_run_whose_restarts_are_spent_ends_with_the_reason(tmp_path) -> None:
    going = Going(tmp_path, "spent", *LONG, "fleet.supervision.restarts=0", "learning.updates=200")
    going.wait_for(lambda: going.update() >= 1, "the first update")
    going.strike("reward-0", signal.SIGKILL)
    log = going.end()
    assert going.process.returncode == 70, log
    assert "1 reward worker(s) spent their restarts (fleet.supervision.restarts)" in log


@pytest.mark.slow
def test_a_run_whose_own_process_is_killed_goes_on_and_ends_the_same(tmp_path, whole) -> None:
    going = Going(tmp_path, "resumed", *LONG)
    going.wait_for(lambda: going.update() >= 4, "update 4")
    family = going.family()
    going.process.kill()
    going.end()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert [p.name() for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    again = killed_run(tmp_path, "resumed", {}, *LONG)
    assert again.process.returncode == 0, again.log.read_text()
    assert_equal_to(again, whole)
    assert_trained_once(again)
