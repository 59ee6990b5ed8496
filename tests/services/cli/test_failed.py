"""The command line on the dead letters of a run that is on a real server."""

import json

import pytest
from typer.testing import CliRunner

from services.cli.main import app
from services.data.address import find_server, leave_address
from services.data.queue import Ledger, Queue
from services.data.server import EmbeddedServer, connect
from services.data.wire import Ticket, decode, encode
from services.errors import ConfigError
from tests.services.data.entries import group_entry

GROUP = group_entry(1, text="write [42] in red")


@pytest.fixture(scope="module")
def server():
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
def queue(server):
    redis = connect(server.url)
    redis.flushall()
    queue = Queue(redis, "digits")
    queue.begin(Ledger(groups_per_update=2, max_staleness=0, total_groups=8, max_attempts=1))
    queue.admit(0)
    first, second = queue.claim("tickets", "rollout-0/a", 2, 0)
    queue.fail("tickets", first, 0, "ValueError: no such prompt")
    queue.publish("tickets", second, encode(GROUP), 1, 0)
    [drawn] = queue.claim("groups", "reward-0/a", 1, 0)
    queue.fail("groups", drawn, 1, "RewardError: found nan")
    yield queue
    redis.close()


@pytest.fixture
def folder(tmp_path, server, queue):
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "config.yaml").write_text("name: digits\nfleet: {redis: null}\n")
    with leave_address(folder, server.url):
        yield folder


def tafs(*arguments):
    return CliRunner().invoke(app, ["failed", *map(str, arguments)], env={"COLUMNS": "160"}, catch_exceptions=True)


@pytest.mark.integration
def test_the_list_names_group_stage_reason_and_prompt(folder) -> None:
    lines = tafs("ls", folder).output.splitlines()
    assert lines[1].split()[:3] == ["0", "0", "tickets"]
    assert "ValueError: no such prompt" in lines[1]
    assert "RewardError: found nan" in lines[2]
    assert "write [42] in red" in lines[2]
    assert lines[-1] == "2 dead letters"


@pytest.mark.integration
def test_one_letter_is_shown_with_its_prompt_and_its_weights(folder) -> None:
    shown = json.loads(tafs("show", folder, 1).output)
    assert shown["reason"] == "RewardError: found nan"
    assert shown["entry"]["prompt"]["text"] == "write [42] in red"
    assert shown["entry"]["weights"]["version"] == 3


@pytest.mark.integration
def test_a_group_is_tried_again_and_another_dropped(folder, queue) -> None:
    assert tafs("retry", folder, 1).output == "drawn again: 1\n"
    assert tafs("drop", folder, "--all").output == "dropped: 0\n"
    assert tafs("ls", folder).output == "0 dead letters\n"
    queue.admit(0)
    tickets = [decode(entry.payload, Ticket) for entry in queue.claim("tickets", "rollout-0/b", 9, 0)]
    assert [(ticket.ordinal, ticket.attempt) for ticket in tickets] == [(1, 1), (2, 0)]


@pytest.mark.integration
def test_a_group_without_a_letter_or_no_group_at_all_is_the_users_mistake(folder) -> None:
    for arguments, complaint in (
        (("show", folder, 7), r"dead letter of group 7, found those of \[0, 1\]"),
        (("retry", folder), "--all"),
        (("drop", folder, 1, "--all"), "--all"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            raise tafs(*arguments).exception


def test_the_address_is_for_its_owner_and_goes_with_the_run(tmp_path) -> None:
    (tmp_path / "config.yaml").write_text("fleet: {redis: null}\n")
    with leave_address(tmp_path, "unix://:secret@/s"):
        assert (tmp_path / ".server").stat().st_mode & 0o777 == 0o600
        assert find_server(tmp_path, {}) == "unix://:secret@/s"
    with pytest.raises(ConfigError, match="its server was its own"):
        find_server(tmp_path, {})
    (tmp_path / "config.yaml").write_text("fleet: {redis: 'rediss://host/0'}\n")
    assert find_server(tmp_path, {}) == "rediss://host/0"
    (tmp_path / "config.yaml").write_text("fleet: {redis: 'rediss://me:***@host/0'}\n")
    assert find_server(tmp_path, {"TAFS_REDIS_URL": "rediss://me:secret@host/0"}) == "rediss://me:secret@host/0"
    with pytest.raises(ConfigError, match="set TAFS_REDIS_URL"):
        find_server(tmp_path, {})
    with pytest.raises(ConfigError, match=r"no .*elsewhere/config.yaml"):
        find_server(tmp_path / "elsewhere", {})
