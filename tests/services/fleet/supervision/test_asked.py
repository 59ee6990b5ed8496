"""What is asked of a run reaches its driver once, whole, and only while it goes on."""

import fcntl

import pytest

from services.cli.elastic import ask_drain, going_on, workers_of
from services.data.server import EmbeddedServer, connect
from services.errors import ConfigError
from services.fleet.supervision.asked import Asked, Requests


@pytest.mark.integration
def test_what_is_asked_is_taken_once_and_the_last_word_counts() -> None:
    with EmbeddedServer() as server:
        redis = connect(server.url)
        asking, taking = Requests(redis, "numbers"), Requests(redis, "numbers")
        assert taking.take() == Asked()
        asking.ask_workers({"rollout": 3, "reward": 2})
        asking.ask_workers({"rollout": 5})
        assert taking.take() == Asked(workers={"rollout": 5, "reward": 2})
        assert taking.take() == Asked()
        asking.ask_drain()
        assert Requests(redis, "other").take() == Asked()
        assert taking.take() == Asked(drain=True)
        redis.close()


@pytest.mark.parametrize("given", ["rollout", "rollout=", "rollout=0", "rollout=-1", "learner=2", "rollout=2.5"])
def test_a_number_of_workers_that_is_none_is_refused(given) -> None:
    with pytest.raises(ConfigError, match="expected rollout=N or reward=N"):
        workers_of(["reward=2", given])
    assert workers_of(["reward=2", "rollout=12"]) == {"reward": 2, "rollout": 12}


def test_a_run_that_is_over_cannot_be_asked(tmp_path) -> None:
    assert not going_on(tmp_path)
    with (tmp_path / ".lock").open("w") as lock:
        assert not going_on(tmp_path)
        with pytest.raises(ConfigError, match="expected a run that is going on"):
            ask_drain(tmp_path, wait_s=1)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert going_on(tmp_path)
