"""`tafs serve-reward` as a process of its own, asked by the client, and stopped on request."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rewards.build import build
from rewards.reward import checked

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def port() -> int:
    with socket.socket() as any_free:
        any_free.bind(("127.0.0.1", 0))
        return any_free.getsockname()[1]


@pytest.mark.integration
def test_a_served_reward_scores_as_the_reward_itself_and_stops_on_request(tmp_path: Path, port: int) -> None:
    (tmp_path / "token").write_text("s3cret")
    file = tmp_path / "server.yaml"
    file.write_text(f"use: jpeg_size\noptions: {{direction: larger}}\nport: {port}\ntoken_file: {tmp_path / 'token'}\n")
    command = [sys.executable, "-m", "services", "serve-reward", str(file)]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        options = {"url": f"http://127.0.0.1:{port}", "token_file": str(tmp_path / "token"), "attempts": 8}
        remote = build("remote", options)
        images = np.random.default_rng(0).integers(0, 256, (3, 16, 32, 3), dtype=np.uint8)
        question = (images, ["p"] * 3, [{}] * 3)
        np.testing.assert_allclose(
            checked(remote, *question), checked(build("jpeg_size", {"direction": "larger"}), *question), rtol=1e-6
        )
        remote.close()
    finally:
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=20)
    assert "Traceback" not in log
    assert "Finished server process" in log


@pytest.mark.integration
def test_a_server_whose_reward_does_not_exist_says_so(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("use: jpg_size\n")
    command = [sys.executable, "-m", "services", "serve-reward", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "did you mean 'jpeg_size'?" in done.stderr
