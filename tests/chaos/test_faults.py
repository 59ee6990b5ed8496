"""The chaos list, first half: processes, the server, the network. Each fault at its worst point, in real runs, which
must end with the weights of an undisturbed one, and whose account must add up at every moment.

`make chaos` runs all of it with five seeds, and prints how long everybody was away. A lost node of a Ray cluster is in
`make cluster`.
"""

import os
import random
import signal
import time
from contextlib import suppress
from urllib.parse import urlsplit

import psutil
import pytest

from services.data.server import EmbeddedServer, connect
from services.fleet.failpoints import PLACES, VARIABLE
from tests.e2e.conftest import DEADLINE_S
from tests.e2e.going import Going, assert_equal_to, assert_trained_once, failpoints, recoveries

from .proxy import Proxy
from .runs import ANSWERS_S, HASTY, MANY, RUN, UPDATES, deaths, ended, tell_next_updates, tell_recoveries
from .watch import Watch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * DEADLINE_S)]
DRIVER = tuple(place for place in PLACES if place.startswith("driver."))
WORKERS = tuple(place for place in PLACES if not place.startswith(("driver.", "end.")))
LEARNER = tuple(place for place in WORKERS if place.startswith(("learner.", "checkpoint.")))
FULL_S, DEAD_S = 15.0, 12.0
"""A server is full for longer than it takes to be taken for dead."""


def passings(chance: random.Random) -> dict[str, int]:
    """At which passing of each place a worker is killed."""
    return {place: chance.randint(1, 1 if place.startswith("checkpoint") else 3) for place in WORKERS}


def killed_everywhere(tmp_path, recovered, chance: random.Random, *overrides: str) -> Going:
    """A run of which somebody was killed at every place; it was soon whole again, and has trained everything once."""
    marks = tmp_path / "marks"
    going = Going(tmp_path, "struck", *RUN, *MANY, *overrides, **failpoints(marks, passings(chance)))
    with Watch(going).looking() as watch:
        log = ended(going)
    assert {mark.name for mark in marks.iterdir()} == set(WORKERS), log
    assert_trained_once(going, UPDATES)
    assert [deaths(watch, role) for role in ("rollout", "reward", "learner")] == [3, 3, 6]
    tell_recoveries(going, recovered)
    tell_next_updates(watch, [(marks / place).stat().st_mtime for place in LEARNER], recovered)
    return going


def test_a_worker_killed_at_any_place_changes_nothing(tmp_path, whole, recovered, seed) -> None:
    going = killed_everywhere(tmp_path, recovered, random.Random(seed))
    assert_equal_to(going, whole)


def test_groups_of_an_asynchronous_run_are_trained_once_whoever_is_killed(tmp_path, recovered, seed) -> None:
    killed_everywhere(tmp_path, recovered, random.Random(seed), "fleet.max_staleness=2")


def test_a_driver_killed_at_any_place_and_started_again_changes_nothing(tmp_path, whole, recovered, seed) -> None:
    chance = random.Random(seed)
    variables = failpoints(tmp_path / "marks", {place: chance.randint(1, 4) for place in DRIVER})
    going = Going(tmp_path, "struck", *RUN, **variables)
    with Watch(going).looking() as watch:
        for _ in DRIVER:
            ended(going, -signal.SIGKILL)
            going = Going(tmp_path, "struck", *RUN, **variables)
            watch.now_at(going)
        began = time.time()
        log = ended(going)
    recovered("a run started again, to its next update", watch.next_update_after(began), 60.0)
    assert {mark.name for mark in (tmp_path / "marks").iterdir()} == set(DRIVER), log
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)


def test_a_server_killed_flushed_paused_and_full_changes_nothing(tmp_path, whole, recovered, seed) -> None:
    chance = random.Random(seed)
    going = Going(tmp_path, "forgetful", *RUN, *MANY, f"fleet.supervision.dead_after_s={DEAD_S:g}")
    deeds = ["kill", "flush", "pause", "fill"]
    chance.shuffle(deeds)
    with Watch(going).looking() as watch:
        try:
            for number, deed in enumerate(deeds):
                going.wait_for(lambda number=number: going.update() >= 1 + 2 * number, "its turn")
                time.sleep(chance.random())
                at = disturb(going, deed)
                going.wait_for(lambda at=at: watch.next_update_after(at), f"the next update after: {deed}")
                recovered(f"server {deed}, to the next update", watch.next_update_after(at), ANSWERS_S)
        finally:
            log = ended(going)
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)
    assert recoveries(log) == [], "an outage of the server killed somebody"
    assert watch.least("tafs_redis_up") == 0, "the pause was not told"
    assert watch.counted("tafs_redis_memory_limit_bytes") == 1 << 20, "the server was never full"


def disturb(going: Going, deed: str) -> float:
    """Do it; the moment at which the server could be used again."""
    server = going.server()
    client = connect((going.folder / ".server").read_text())
    if deed == "kill":
        server.kill()
    elif deed == "flush":
        client.flushall()
    elif deed == "pause":
        server.suspend()
        time.sleep(30.0)
        server.resume()
    else:
        client.config_set("maxmemory", "1mb")
        time.sleep(FULL_S)
        client.config_set("maxmemory", "0")
    return time.time()


def test_a_network_that_is_cut_slow_or_silent_changes_nothing(tmp_path, whole, recovered, seed) -> None:
    chance = random.Random(seed)
    deeds = ["cut", "slow", "hang"]
    chance.shuffle(deeds)
    with EmbeddedServer() as server, Proxy(urlsplit(server.url).path) as proxy:
        url = f"redis://:{urlsplit(server.url).password}@127.0.0.1:{proxy.port}"
        going = Going(tmp_path, "far", *RUN, *MANY, "fleet.redis=${TAFS_REDIS_URL}", TAFS_REDIS_URL=url)
        with Watch(going, server.url).looking() as watch:
            try:
                for number, deed in enumerate(deeds):
                    going.wait_for(lambda number=number: going.update() >= 1 + 3 * number, "its turn")
                    time.sleep(chance.random())
                    if deed == "slow":
                        proxy.slow(5.0, delay_s=0.1)
                    else:
                        getattr(proxy, deed)(chance.uniform(5.0, 15.0))
                    at = time.time()
                    going.wait_for(lambda at=at: watch.next_update_after(at), f"the next update after: {deed}")
                    recovered(f"network {deed}, to the next update", watch.next_update_after(at), ANSWERS_S)
            finally:
                log = ended(going)
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)
    assert recoveries(log) == [], "a network that was cut killed somebody"
    assert watch.least("tafs_redis_up") == 0, "the outage was not told"


def test_processes_that_are_stopped_are_replaced_and_their_late_output_counts_for_nothing(
    tmp_path, whole, recovered, seed
) -> None:
    """Each is stopped with its output in hand, and continued when it has been given up: in the moment before its end,
    as it would be in a part of the network that was cut off.
    """
    chance = random.Random(seed)
    places = ("rollout.drawn", "reward.scored", "learner.stepped")
    strikes = ",".join(f"{place}:{chance.randint(1, 4)}=stop" for place in places)
    marks = tmp_path / "marks"
    marks.mkdir()
    going = Going(tmp_path, "stopped", *RUN, *MANY, *HASTY, **{VARIABLE: f"{marks}={strikes}"})
    stopped: dict[str, int] = {}  # slot: its process
    late: set[str] = set()

    def look() -> bool:
        log = going.log.read_text()
        for slot in ("rollout-0", "rollout-1", "reward-0", "learner-0"):
            worker = going.worker(slot)
            if worker and slot not in stopped and is_stopped(worker.pid):
                stopped[slot] = worker.pid
            if slot in stopped and slot not in late and f"{slot} died: no heartbeat" in log:
                late.add(slot)
                with suppress(ProcessLookupError):
                    os.kill(stopped[slot], signal.SIGCONT)
        return len(late) == len(places)

    with Watch(going).looking() as watch:
        try:
            going.wait_for(look, "three deaths by silence")
        finally:
            log = ended(going)
    assert log.count("died: no heartbeat for") == len(places), log
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)
    assert [deaths(watch, role) for role in ("rollout", "reward", "learner")] == [1, 1, 1]
    tell_recoveries(going, recovered)


def is_stopped(process: int) -> bool:
    try:
        return process > 0 and psutil.Process(process).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False
