import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from services.data.server import EmbeddedServer, connect, find_binary, without_retry
from services.errors import ExitCode, ServerUnavailable


def ended(pid: int) -> bool:
    """Whether the process is gone, or a zombie that nobody has buried yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.integration
def test_the_server_keeps_nothing_refuses_writes_when_full_and_listens_on_no_port(server, redis) -> None:
    assert redis.config_get("save")["save"] == ""
    assert redis.config_get("appendonly")["appendonly"] == "no"
    assert redis.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    assert redis.config_get("port")["port"] == "0"


@pytest.mark.integration
def test_the_password_is_on_no_command_line_and_in_no_file(server) -> None:
    password = server.url.removeprefix("unix://:").partition("@")[0]
    folder = Path(server.url.partition("@")[2]).parent
    assert len(password) >= 32
    assert password.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert password.encode() not in Path(f"/proc/{server.pid}/environ").read_bytes()
    assert all(password not in file.read_text() for file in folder.iterdir() if file.is_file())
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.integration
def test_nobody_enters_without_the_password(server) -> None:
    stranger = without_retry(connect("unix://" + server.url.partition("@")[2]))
    with pytest.raises(Exception, match=r"[Aa]uth"):
        stranger.ping()
    stranger.close()


@pytest.mark.integration
def test_the_terminals_interrupt_does_not_reach_the_server(server) -> None:
    assert os.getsid(server.pid) == server.pid
    assert os.getpgid(server.pid) != os.getpgid(0)


@pytest.mark.integration
def test_a_stopped_server_is_gone_with_its_folder() -> None:
    with EmbeddedServer(memory_bytes=2**26) as server:
        pid, folder = server.pid, Path(server.url.partition("@")[2]).parent
        client = connect(server.url)
        assert client.config_get("maxmemory")["maxmemory"] == str(2**26)
        client.close()
        assert folder.is_dir()
    assert ended(pid)
    assert not folder.exists()
    server.stop()


@pytest.mark.integration
def test_a_server_that_hangs_is_killed() -> None:
    server = EmbeddedServer()
    server.start()
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    server.stop(timeout_s=0.05)
    assert ended(pid)


@pytest.mark.integration
def test_the_server_dies_when_its_owner_is_killed() -> None:
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; from services.data.server import EmbeddedServer; s = EmbeddedServer(); s.start(); "
            "print(s.pid, s.url.partition('@')[2], flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        pid, socket = owner.stdout.readline().split()
        assert not ended(int(pid))
        owner.kill()
    deadline = time.monotonic() + 5
    while not ended(int(pid)):
        assert time.monotonic() < deadline, "the server outlives its owner"
        time.sleep(0.01)
    for left in Path(socket).parent.iterdir():
        left.unlink()
    Path(socket).parent.rmdir()


def test_a_server_that_does_not_start_shows_its_log(tmp_path) -> None:
    broken = tmp_path / "server"
    broken.write_text("#!/bin/sh\necho no such option\nexit 3\n")
    broken.chmod(0o700)
    with pytest.raises(ServerUnavailable, match=r"status 3; its log: no such option") as caught:
        EmbeddedServer(binary=broken).start()
    assert caught.value.exit_code == ExitCode.TRY_AGAIN


def test_a_server_that_does_not_answer_in_time_is_ended(tmp_path) -> None:
    silent = tmp_path / "server"
    silent.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    silent.chmod(0o700)
    with pytest.raises(ServerUnavailable, match=r"an answer within 0\.3 s"):
        EmbeddedServer(binary=silent, start_timeout_s=0.3).start()
    assert ended(int((tmp_path / "pid").read_text()))


def test_only_the_main_thread_starts_a_server() -> None:
    caught = []

    def start() -> None:
        try:
            EmbeddedServer().start()
        except AssertionError as error:
            caught.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert caught == ["start the server from the main thread"]


def test_the_binary_is_found() -> None:
    assert find_binary().name in {"valkey-server", "redis-server"}


def test_what_waits_for_no_tensor_imports_no_torch() -> None:
    modules = ", ".join(f"services.data.{name}" for name in ("queue", "wire", "blobs", "server", "ledger", "keys"))
    code = f"import sys; import {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.integration
def test_a_sigterm_to_everything_below_the_run_leaves_the_server_to_the_run_that_drains() -> None:
    with EmbeddedServer() as server:
        os.kill(server.pid, signal.SIGTERM)
        time.sleep(0.3)
        with connect(server.url) as client:
            assert client.ping()
        started = time.monotonic()
        server.stop(timeout_s=20)
        assert time.monotonic() - started < 15, "it had to be killed"
