"""What `tafs submit` composes, and how it reads the job server's answers."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from services.cli.drain_jobs import drain
from services.cli.submit import job_command, run_name
from services.errors import ConfigError, ServerUnavailable
from services.fleet.ray_jobs import Job, JobServer, exit_code_of, ray_token

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "t" * 64


@pytest.fixture
def job_server():
    """Ray's job server as its clients see it: two jobs, of which one stops when it is asked to."""
    jobs = {
        "a": {"submission_id": "a", "metadata": {"tafs_run": "x"}, "status": "RUNNING", "driver_exit_code": None},
        "b": {"submission_id": "b", "metadata": None, "status": "FAILED", "driver_exit_code": 64},
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.send_error(401)
                return
            name = self.path.removeprefix("/api/jobs/")
            body = json.dumps(jobs[name] if name else list(jobs.values())).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            jobs[self.path.split("/")[3]]["status"] = "STOPPED"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

        def do_DELETE(self):
            """The head goes away."""
            self.send_response(200)
            self.end_headers()
            threading.Thread(target=lambda: (server.shutdown(), server.server_close()), daemon=True).start()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_command_is_the_readmes(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    run_file = Path("deploy/configs/cluster.yaml")
    arguments = {"run": "r", "submission": "r-1", "address": "http://h:8265", "python": "python"}
    command = job_command(run_file, ["learning.updates=2"], **arguments)
    assert command[:3] == ["job", "submit", "--no-wait"]
    assert command[command.index("--working-dir") + 1] == "."
    assert json.loads(command[command.index("--metadata-json") + 1]) == {"tafs_run": "r"}
    entrypoint = command[command.index("--") + 1 :]
    assert entrypoint == ["python", "-m", "services", "train", str(run_file), "learning.updates=2"]


def test_a_runs_name_is_read_through_bases_without_the_clusters_variables(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run_name(Path("deploy/configs/flux1-schnell/64gpu.yaml"), ()) == "flux1-schnell-64gpu"
    assert run_name(Path("deploy/configs/cluster.yaml"), ["name=mine"]) == "mine"
    with pytest.raises(ConfigError, match="expected a path below this folder"):
        run_name(ROOT / "deploy/configs/cluster.yaml", ())


def test_a_job_ends_with_its_entrypoints_code_and_a_lost_one_can_be_tried_again() -> None:
    def ended(status, code):
        return exit_code_of(Job(id="j", run="r", status=status, exit_code=code, message=""))

    assert ended("SUCCEEDED", 0) == 0
    assert ended("FAILED", 64) == 64
    assert ended("FAILED", None) == 75
    assert ended("STOPPED", None) == 143


def test_jobs_are_listed_told_and_drained_with_the_token(job_server) -> None:
    server = JobServer(job_server, TOKEN)
    assert [job.id for job in server.going_on()] == ["a"]
    assert server.job("b").exit_code == 64
    assert drain(server, wait_s=5)
    assert server.ended("a").status == "STOPPED"


def test_a_head_that_drained_because_it_goes_is_told_from_one_that_stays(job_server) -> None:
    server = JobServer(job_server, TOKEN)
    ticks = iter(range(3))
    assert not server.leaves(2, clock=lambda: next(ticks))
    with urlopen(Request(job_server, method="DELETE"), timeout=10):
        pass
    assert server.leaves(60)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[{", b"HTTP/1.1 200 OK\r\n\r\n[{"]
)
def test_a_head_that_goes_within_an_answer_is_one_that_goes(answer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        assert JobServer(f"http://127.0.0.1:{listener.getsockname()[1]}", None).leaves(60)


def test_a_wrong_token_a_silent_server_and_a_wrong_address_are_told(job_server) -> None:
    with pytest.raises(ConfigError, match="expected a token that the cluster knows, found 401"):
        JobServer(job_server, "wrong").going_on()
    with pytest.raises(ServerUnavailable, match="expected Ray's job server"):
        JobServer("http://127.0.0.1:1", None).going_on()
    with pytest.raises(ConfigError, match="expected http://HOST:8265, found 'ray://h'"):
        JobServer("ray://h", None)


def test_the_token_is_found_as_rays_clients_find_it(tmp_path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert ray_token({}) is None
    assert ray_token({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}) == "x"
    assert ray_token({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}) == TOKEN
    with pytest.raises(ConfigError, match=r"expected one at .*absent"):
        ray_token({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "absent")})
