"""A server of one's own: a user with no more rights than a run needs, and TLS."""

import shutil
import socket
import subprocess
import time

import pytest
from redis.exceptions import NoPermissionError

from services.data.letters import DeadLetters
from services.data.queue import Ledger, Queue
from services.data.server import connect, without_retry
from services.errors import QueueError, ServerUnavailable

from .small_fleet import SmallFleet

RIGHTS = ("~{run}:*", "+@all", "-@admin", "-@dangerous", "+info")
"""As docs/server.md tells to give them."""


@pytest.mark.integration
def test_a_run_needs_only_its_own_keys_and_no_dangerous_command(server, redis) -> None:
    redis.execute_command("ACL", "SETUSER", "tafs", "reset", "on", ">secret", *RIGHTS)
    password = server.url.partition("//:")[2].partition("@")[0]
    limited = without_retry(connect(server.url.replace(f":{password}", "tafs:secret", 1)))
    fleet = SmallFleet(limited, updates=3)
    fleet.run(learner_dies_at=(1,))
    assert len(fleet.trained) == 3
    assert fleet.queue.release("rollout-0") is not None
    assert DeadLetters(limited, "run").all() == ()
    with pytest.raises(QueueError, match=r"[Nn]o permissions|NOPERM"):
        Queue(limited, "another").begin(Ledger(groups_per_update=1, max_staleness=0, total_groups=1))
    with pytest.raises(NoPermissionError):
        limited.flushall()
    assert fleet.queue.memory().used_bytes > 0
    redis.execute_command("ACL", "SETUSER", "tafs", "-info")
    assert fleet.queue.memory() is None
    fleet.close()
    limited.close()
    redis.execute_command("ACL", "DELUSER", "tafs")


@pytest.fixture
def tls(tmp_path):
    """A redis-server that speaks TLS alone: its URL without the authority that signed it, and that authority's file."""
    program, openssl = shutil.which("redis-server"), shutil.which("openssl")
    if program is None or openssl is None:
        pytest.skip("needs redis-server and openssl in PATH")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    request += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run(request, check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path]
    command += ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"]
    process = subprocess.Popen([*command, "--requirepass", "secret"], stdout=subprocess.DEVNULL)
    try:
        yield f"rediss://:secret@localhost:{port}/0", certificate
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.integration
def test_a_run_speaks_tls_and_believes_only_the_authority_it_was_given(tls) -> None:
    url, authority = tls
    trusting = without_retry(connect(f"{url}?ssl_ca_certs={authority}"))
    queue = Queue(trusting, "run")
    deadline = time.monotonic() + 20
    while True:
        try:
            queue.begin(Ledger(groups_per_update=1, max_staleness=0, total_groups=1))
            break
        except ServerUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert queue.admit(0) == 1
    distrustful = without_retry(connect(url))
    stranger = Queue(distrustful, "run")
    with pytest.raises(ServerUnavailable, match=r"[Cc]ertificate|CERTIFICATE"):
        stranger.statistics()
    queue.close()
    trusting.close()
