"""The chaos list: each fault at its worst point, in real runs, which must end with the weights of an undisturbed one.

`make chaos` runs all of it with five seeds, and prints how long everybody was away.
"""

import json
import os
import random
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from rollout.prompts import PromptOrder, load_prompts
from services.cli.run_file import load_run_file
from services.data.server import EmbeddedServer
from services.fleet.failpoints import PLACES
from tests.e2e.conftest import DEADLINE_S, ROOT, RUN_FILE
from tests.e2e.going import (
    LONG,
    Going,
    assert_equal_to,
    assert_quick,
    assert_trained_once,
    failpoints,
    killed_run,
    newest,
    recoveries,
)

from .proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * DEADLINE_S)]
SEEDS = range(int(os.environ.get("TAFS_CHAOS_SEEDS", "5")))
UPDATES = 12
RUN = (*LONG, f"learning.updates={UPDATES}")
MANY = ("fleet.supervision.restarts=40", "fleet.supervision.backoff_s=0.1")
"""Restarts are not what is tested."""
DRIVER = tuple(place for place in PLACES if place.startswith("driver."))
WORKERS = tuple(place for place in PLACES if not place.startswith("driver."))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of an undisturbed run."""
    going = killed_run(tmp_path_factory.mktemp("undisturbed"), "whole", {}, *RUN)
    assert going.process.returncode == 0, going.log.read_text()
    return going.folder


def ended(going: Going, code: int = 0) -> str:
    try:
        log = going.end()
    finally:
        going.close()
    assert going.process.returncode == code, log
    return log


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_killed_at_any_place_changes_nothing(tmp_path, whole, seed) -> None:
    chance = random.Random(seed)
    strikes = {place: chance.randint(1, 1 if place.startswith("checkpoint") else 3) for place in WORKERS}
    going = Going(tmp_path, "struck", *RUN, *MANY, **failpoints(tmp_path / "marks", strikes))
    log = ended(going)
    assert {mark.name for mark in (tmp_path / "marks").iterdir()} == set(WORKERS), log
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)
    assert_quick(going)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_driver_killed_at_any_place_and_started_again_changes_nothing(tmp_path, whole, seed) -> None:
    chance = random.Random(seed)
    variables = failpoints(tmp_path / "marks", {place: chance.randint(1, 4) for place in DRIVER})
    for _ in DRIVER:
        going = Going(tmp_path, "struck", *RUN, **variables)
        going.wait_for(lambda going=going: going.update() >= 0, "its start")
        ended(going, -signal.SIGKILL)
    going = Going(tmp_path, "struck", *RUN, **variables)
    log = ended(going)
    assert {mark.name for mark in (tmp_path / "marks").iterdir()} == set(DRIVER), log
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_server_killed_flushed_and_paused_changes_nothing(tmp_path, whole, seed) -> None:
    chance = random.Random(seed)
    going = Going(tmp_path, "forgetful", *RUN, *MANY)
    deeds = ["kill", "flush", "pause"]
    chance.shuffle(deeds)
    try:
        for number, deed in enumerate(deeds):
            going.wait_for(lambda number=number: going.update() >= 1 + 3 * number, "its turn")
            time.sleep(chance.random())
            at, update = time.monotonic(), going.update()
            disturb(going, deed)
            going.wait_for(lambda update=update: going.update() > update, "the next update")
            print(f"recovery: server {deed} {time.monotonic() - at:.1f} s to the next update", flush=True)
    finally:
        log = ended(going)
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)
    assert recoveries(log) == [], "an outage of the server killed somebody"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_that_is_cut_slow_or_silent_changes_nothing(tmp_path, whole, seed) -> None:
    chance = random.Random(seed)
    deeds = ["cut", "slow", "hang"]
    chance.shuffle(deeds)
    with EmbeddedServer() as server, Proxy(urlsplit(server.url).path) as proxy:
        url = f"redis://:{urlsplit(server.url).password}@127.0.0.1:{proxy.port}"
        going = Going(tmp_path, "far", *RUN, *MANY, "fleet.redis=${TAFS_REDIS_URL}", TAFS_REDIS_URL=url)
        try:
            for number, deed in enumerate(deeds):
                going.wait_for(lambda number=number: going.update() >= 1 + 3 * number, "its turn")
                time.sleep(chance.random())
                if deed == "slow":
                    proxy.slow(5.0, delay_s=0.1)
                else:
                    getattr(proxy, deed)(chance.uniform(5.0, 15.0))
                at, update = time.monotonic(), going.update()
                going.wait_for(lambda update=update: going.update() > update, "the next update")
                print(f"recovery: network {deed} {time.monotonic() - at:.1f} s to the next update", flush=True)
        finally:
            log = ended(going)
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)
    assert recoveries(log) == [], "a network that was cut killed somebody"


def disturb(going: Going, deed: str) -> None:
    from services.data.server import connect

    server = going.server()
    if deed == "kill":
        server.kill()
    elif deed == "flush":
        connect((going.folder / ".server").read_text()).flushall()
    else:
        server.suspend()
        time.sleep(30.0)
        server.resume()


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_of_an_asynchronous_run_are_trained_once_whoever_is_killed(tmp_path, seed) -> None:
    chance = random.Random(seed)
    strikes = {place: chance.randint(1, 1 if place.startswith("checkpoint") else 3) for place in WORKERS}
    overrides = ("fleet.max_staleness=2", *MANY)
    going = Going(tmp_path, "struck", *RUN, *overrides, **failpoints(tmp_path / "marks", strikes))
    log = ended(going)
    assert {mark.name for mark in (tmp_path / "marks").iterdir()} == set(WORKERS), log
    assert_trained_once(going, UPDATES)
    assert_quick(going)


def faulty(fault: str, marks: Path, prompt: str = "") -> tuple[str, ...]:
    options = json.dumps({"fault": fault, "marks": str(marks), "prompt": prompt})
    reward = f"{{use: 'tests.chaos.bad_rewards:Faulty', name: light, options: {options}}}"
    return (f"rewards=[{reward}]", "fleet.reward.groups_at_once=1", "fleet.supervision.hang_timeout_s=10")


def test_a_scorer_that_raises_answers_nan_and_hangs_changes_nothing(tmp_path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    sound = killed_run(tmp_path, "sound", {}, *RUN, *faulty("none", marks))
    assert sound.process.returncode == 0, sound.log.read_text()
    sick = killed_run(tmp_path, "sick", {}, *RUN, *MANY, *faulty("once", marks))
    log = sick.log.read_text()
    assert sick.process.returncode == 0, log
    assert {mark.name for mark in marks.iterdir()} == {"reward.raise", "reward.nan", "reward.hang"}
    assert "in one piece of work" in log
    assert_equal_to(sick, sound.folder)
    assert_trained_once(sick, UPDATES)
    assert_quick(sick)


def test_one_poisoned_prompt_does_not_stop_a_synchronous_run(tmp_path) -> None:
    config = load_run_file(ROOT / RUN_FILE, ())
    poisoned = 3
    prompt = PromptOrder(load_prompts(ROOT / config.sampling.prompts), config.seed).at(poisoned).text
    going = killed_run(tmp_path, "poisoned", {}, *RUN, *faulty("poison", tmp_path, prompt))
    log = going.log.read_text()
    assert going.process.returncode == 0, log
    assert_trained_once(going, UPDATES)
    progress = json.loads((newest(going.folder) / "state.json").read_text())["progress"]
    assert progress["consumed"] == [[0, poisoned], [poisoned + 1, 2 * UPDATES + 1]]
    queue = json.loads((going.folder / "status.json").read_text())["queue"]
    assert (queue["dead"], queue["failures"]["groups"]) == (1, 3)


def test_a_learner_goes_back_behind_a_checkpoint_that_is_broken(tmp_path, whole) -> None:
    going = Going(tmp_path, "broken", *RUN, *MANY)
    try:
        going.wait_for(lambda: going.update() >= 7, "update 7")
        file = newest(going.folder) / "optimizer.safetensors"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        going.strike("learner-0", signal.SIGKILL)
    finally:
        log = ended(going)
    assert "the run with it, at update 3" in log, log
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)
    assert_quick(going)


@pytest.mark.parametrize("slot", ["rollout-0", "reward-0", "learner-0"])
def test_a_process_that_is_stopped_is_replaced_and_its_late_output_counts_for_nothing(tmp_path, whole, slot) -> None:
    """It is continued when its successor works, in the moment before its end."""
    quick = ("fleet.supervision.suspect_after_s=3", "fleet.supervision.dead_after_s=8", *MANY)
    going = Going(tmp_path, "stopped", *RUN, *quick)
    try:
        going.wait_for(lambda: going.update() >= 2, "update 2")
        going.wait_for(lambda: (w := going.worker(slot)) and w.state == "healthy" and w.pid, f"{slot} at work")
        pid, incarnation = going.worker(slot).pid, going.worker(slot).incarnation
        os.kill(pid, signal.SIGSTOP)
        going.wait_for(lambda: going.worker(slot).incarnation > incarnation, "its successor")
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGCONT)
    finally:
        log = ended(going)
    assert "no heartbeat for" in log
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)
    assert_quick(going)
