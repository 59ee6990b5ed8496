"""Looking at a run from outside, while it goes on and when it is over."""

import fcntl
import io
import json
from contextlib import ExitStack

import msgspec
import pytest
from rich.console import Console

from services.cli.status import Look, show_status, watch_status
from services.data.address import leave_address
from services.data.queue import Ledger, Queue
from services.data.server import EmbeddedServer, connect
from services.errors import ConfigError

RECORD = {
    "update": 1,
    "unix_time": 1.0,
    "run_seconds": 2.0,
    "version": 1,
    "lineage": 0,
    "staleness": [0, 1],
    "report": {"rewards": {"ocr": {"mean": [0.25, None]}}},
}


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "numbers"
    found.mkdir()
    (found / "config.yaml").write_text("fleet: {redis: null}\n")
    return found


def console() -> Console:
    return Console(file=io.StringIO(), width=160, height=60, force_terminal=True, _environ={"TERM": "xterm"})


def test_a_folder_that_is_no_runs_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"found no .*config\.yaml"):
        watch_status(tmp_path, console(), every_s=1.0)
    with pytest.raises(ConfigError, match=r"finished update, found no .*status\.json"):
        show_status(tmp_path, console())


def test_a_run_that_is_over_is_shown_once(folder) -> None:
    screen = console()
    watch_status(folder, screen, every_s=1.0)
    assert "no run is going on" in screen.file.getvalue()


@pytest.mark.integration
def test_a_run_that_goes_on_is_followed_to_its_end_with_its_servers_own_figures(folder) -> None:
    screen, looks = console(), []
    with ExitStack() as stack, ExitStack() as owner:
        server = stack.enter_context(EmbeddedServer())
        owner.enter_context(leave_address(folder, server.url))
        lock = owner.enter_context((folder / ".lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        redis = connect(server.url)
        queue = Queue(redis, "numbers")
        status = {"run": "numbers", "planned_updates": 5, "metrics": "m", "record": RECORD}
        look = Look(folder)
        assert look().queue is None, "the run has not begun"

        def meanwhile(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 1:
                queue.begin(Ledger(groups_per_update=2, max_staleness=1, total_groups=8))
                queue.admit(0)
                queue.claim("tickets", "rollout-0/ab", 3, 0)
                figures = msgspec.to_builtins(queue.statistics())
                (folder / "status.json").write_text(json.dumps({**status, "queue": figures}))
                now = look()
                assert (now.live, now.queue["stages"]["tickets"]["pending"]) == (True, 3)
                assert now.held["rollout-0"].claims == 3
                assert 0 <= now.held["rollout-0"].lease_age_s < 60
            elif len(looks) == 2:
                server.stop()
                now = look()
                assert (now.live, dict(now.held)) == (False, {}), "figures of a server that is gone are the last ones"
                assert now.queue["stages"]["tickets"]["pending"] == 3
            else:
                owner.close()

        watch_status(folder, screen, every_s=0.5, sleep=meanwhile)
    assert looks == [0.5] * 3
    shown = screen.file.getvalue()
    assert "numbers: no update yet" in shown
    assert "1 ready, 3 in work" in shown
    assert "no run is going on" in shown
