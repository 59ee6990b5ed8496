"""Heartbeats: what a worker says of itself reaches the supervisor, and outlives the worker."""

import os
import signal
import time

import msgspec
import pytest
from redis.exceptions import OutOfMemoryError

from rewards.tally import Tally
from services.data.server import EmbeddedServer, connect
from services.fleet.supervision.heartbeat import Beat, Heart, Hearts, Pulse
from services.fleet.supervision.totals import NOTHING, add_beat


def test_work_is_counted_when_it_ends_well_and_its_time_always() -> None:
    pulse = Pulse("rollout-0", incarnation=2)
    with pulse.working("7/0", "drawing", images=4):
        time.sleep(0.02)
        inside = pulse.beat()
    with pytest.raises(ValueError, match="no"), pulse.working("8/0", "drawing", images=4):
        raise ValueError("no")
    after = pulse.beat()
    assert (inside.work, inside.phase, inside.groups, inside.number) == ("7/0", "drawing", 0, 0)
    assert inside.work_s >= 0.02
    assert (after.work, after.phase, after.groups, after.images, after.number) == ("", "idle", 1, 4, 1)
    assert after.busy_s >= 0.02
    assert (after.pid, after.incarnation) == (os.getpid(), 2)


def test_of_several_pieces_of_work_the_oldest_is_told_and_time_is_counted_once() -> None:
    started = time.monotonic()
    pulse = Pulse("reward-0", incarnation=0)
    pulse.take("1-0", "7/0", "scoring")
    time.sleep(0.02)
    pulse.take("2-0", "8/0", "scoring")
    both = pulse.beat()
    assert both.work == "7/0"
    assert both.work_s >= 0.02
    pulse.settle("1-0", groups=1, images=4)
    younger = pulse.beat()
    assert (younger.work, younger.groups) == ("8/0", 1)
    assert younger.work_s < both.work_s
    pulse.settle("2-0")
    pulse.settle("2-0")  # told twice: counted once
    after = pulse.beat()
    assert (after.work, after.phase, after.groups, after.work_s) == ("", "idle", 1, 0.0)
    assert both.work_s <= after.busy_s <= time.monotonic() - started
    assert after.gpu_bytes == 0  # nothing here has used a GPU


def test_totals_run_over_all_processes_of_a_slot() -> None:
    first, second = Pulse("rollout-0", 0), Pulse("rollout-0", 1)
    for pulse in (first, second):
        with pulse.working("1/0", "drawing", images=4):
            pass
    first.tells({"ocr": Tally(calls=2, images=8, seconds=0.5, retries=3, breakers_open=1)})
    second.tells({"ocr": Tally(calls=1, failures=1), "judge": Tally(calls=1, images=4, seconds=2.0)})
    beats = [msgspec.msgpack.decode(msgspec.msgpack.encode(pulse.beat()), type=Beat) for pulse in (first, second)]
    totals = add_beat(add_beat(NOTHING, beats[0]), beats[1])
    assert (totals.groups, totals.images) == (2, 8)
    assert totals.rewards == {
        "ocr": Tally(calls=3, failures=1, images=8, seconds=0.5, retries=3),  # the breaker went with its process
        "judge": Tally(calls=1, images=4, seconds=2.0),
    }


@pytest.mark.integration
def test_a_heart_beats_through_an_outage_and_the_supervisor_sees_the_outage() -> None:
    with EmbeddedServer() as server:
        redis = connect(server.url)
        hearts, pulse = Hearts(redis, "run"), Pulse("reward-0", 0)
        hearts.clear()
        heart = Heart(pulse, redis, "run", every_s=0.05)
        wait_for(lambda: (hearts.read() or {}).get("reward-0"))
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert hearts.read() is None
        finally:
            os.kill(server.pid, signal.SIGCONT)
        before = (hearts.read() or {})["reward-0"].number
        wait_for(lambda: hearts.read()["reward-0"].number > before)
        pulse.enter("stopped", ready=False)
        heart.stop()
        assert hearts.read()["reward-0"].phase == "stopped", "the last beat is missing"
        redis.close()


@pytest.mark.integration
def test_a_heart_beats_on_a_full_server() -> None:
    with EmbeddedServer() as server:
        redis = connect(server.url)
        hearts = Hearts(redis, "run")
        redis.config_set("maxmemory", "1")
        with pytest.raises(OutOfMemoryError):
            redis.set("anything", "more")
        heart = Heart(Pulse("reward-0", 0), redis, "run", every_s=0.05)
        wait_for(lambda: (hearts.read() or {}).get("reward-0"))
        heart.stop()
        redis.close()


def wait_for(condition, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
