"""A model server as a process: it comes up, comes back when it is killed, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from services.errors import RewardFailed
from services.fleet.workers.model_server import ModelServer

pytestmark = pytest.mark.integration

FAKE = Path(__file__).with_name("fake_model_server.py")
ROOT = Path(__file__).resolve().parents[4]
DEADLINE_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server_of(tmp_path):
    made: list[ModelServer] = []

    def build(*command: str, ready_s: float = DEADLINE_S, restarts: int = 1, **environment: str) -> ModelServer:
        server = ModelServer(
            name="judge", command=[sys.executable, *command], environment=environment, host="127.0.0.1",
            port=free_port(), log=tmp_path / "judge.log", ready_s=ready_s, restarts=restarts,
        )  # fmt: skip
        made.append(server)
        return server

    yield build
    for server in made:
        server.stop()


def until(condition, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_it_is_started_when_it_answers_and_gone_when_it_is_stopped(server_of, tmp_path) -> None:
    server = server_of(str(FAKE), "0.5")
    server.start()
    pid = server.pid
    assert pid is not None
    assert "ready" in (tmp_path / "judge.log").read_text()
    server.stop()
    assert not psutil.pid_exists(pid)


def test_one_that_is_killed_comes_back_at_the_same_address_and_is_given_up_when_it_dies_too_often(server_of) -> None:
    server = server_of(str(FAKE), "0", restarts=1)
    server.start()
    first, url = server.pid, server.url
    os.kill(first, signal.SIGKILL)
    until(lambda: server.starts == 2 and server.pid not in (None, first), "it did not come back")
    until(server._answers, "it does not answer")
    assert server.url == url
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: server._broken is not None, "it was not given up")
    with pytest.raises(RewardFailed, match="it ended 2 times"):
        server.check()


def test_one_that_ends_at_once_is_told_with_the_end_of_its_log(server_of) -> None:
    server = server_of("-c", "import os, sys; print('no GPU for', os.environ['MODEL']); sys.exit(3)", MODEL="tiny")
    with pytest.raises(RewardFailed, match=r"(?s)ended with status 3; .*no GPU for tiny"):
        server.start()


def test_one_that_never_answers_is_ended_at_its_deadline(server_of) -> None:
    server = server_of(str(FAKE), "600", ready_s=0.5)
    with pytest.raises(RewardFailed, match=r"no answer within 0\.5 s"):
        server.start()
    assert server.pid is None


def test_it_dies_with_an_owner_that_is_killed(tmp_path) -> None:
    owner = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys, time; from pathlib import Path; from services.fleet.workers.model_server import ModelServer\n"
            "server = ModelServer(name='judge', command=[sys.executable, sys.argv[1], '0'], environment={}, "
            "host='127.0.0.1', port=int(sys.argv[2]), log=Path(sys.argv[3]), ready_s=30, restarts=0)\n"
            "server.start(); print(server.pid, flush=True); time.sleep(600)",
            str(FAKE), str(free_port()), str(tmp_path / "log"),
        ],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "it lives on")
