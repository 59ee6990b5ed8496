"""The judges that a run serves: an actor that is killed comes back at the address that the rewards know."""

import http.client
import json
import signal
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from services.cli.run_file import load_run_file
from services.errors import RewardFailed
from services.fleet.supervision.actors import ray_session
from services.fleet.supervision.judges import served_judges

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[4]
FAKE = Path(__file__).parents[1] / "workers/fake_model_server.py"
DEADLINE_S = 240.0


@pytest.fixture
def config(tmp_path):
    judge = {"name": "fake", "command": [sys.executable, str(FAKE), "0"], "cpus": 0.1, "ready_s": 120.0}
    reward = {"use": "vlm_yes_no", "options": {"judge": {"url": "served:fake", "model": "m"}}}

    def build(*overrides: str):
        given = [f"rewards={json.dumps([reward])}", f"fleet.judges={json.dumps([judge])}", f"runs={tmp_path}"]
        return load_run_file(ROOT / "deploy/configs/quickstart.yaml", [*given, *overrides])

    return build


def url_of(judges) -> str:
    return judges.config.rewards[0].options["judge"]["url"]


def answers(url: str) -> bool:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=2.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def servers() -> list[psutil.Process]:
    """The fake servers of this test's own family."""
    family = psutil.Process().children(recursive=True)
    return [process for process in family if str(FAKE) in command_of(process)]


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def tick_until(judges, found, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not found():
        assert time.monotonic() < deadline, f"{what} never came"
        judges.tick()
        time.sleep(0.1)


def test_a_judge_whose_actor_is_killed_comes_back_at_its_address_until_its_restarts_are_spent(config, tmp_path) -> None:
    told: list[str] = []
    run = config("fleet.supervision.restarts=1", "fleet.supervision.backoff_s=0.1")
    with ray_session(), served_judges(run, tmp_path, told.append) as judges:
        url = url_of(judges)
        assert answers(url)
        kill_actor()
        tick_until(judges, lambda: "judge-fake is back" in told, "the judge")
        assert told[0].startswith("judge-fake died: process ended")
        assert answers(url), "the rewards know no other address"
        kill_actor()
        with pytest.raises(RewardFailed, match=r"judge-fake: restarts spent .*logs/judge-fake\.log"):
            tick_until(judges, lambda: False, "the end")
    assert servers() == [], "a server is left behind"


def kill_actor() -> None:
    """kill -9 of the process that keeps the server; the kernel ends the server with it."""
    (server,) = servers()
    actor = server.parent()
    assert actor is not None
    assert actor.pid != psutil.Process().pid
    actor.send_signal(signal.SIGKILL)
    psutil.wait_procs([server], timeout=DEADLINE_S)
