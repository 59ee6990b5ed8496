"""Checkpoints in a real object store: an S3 server of its own process, killed writers, another machine's start."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import fsspec
import pytest

from learner.checkpoint import saved_updates
from learner.checkpoint_folders import open_folder
from tests.learner.test_checkpoint_folders import attempt_of, files_below, save

from .conftest import DEADLINE_S
from .going import LONG, Going, assert_equal_to, failpoints, killed_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * DEADLINE_S)]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The URL of a bucket; whoever starts from here reaches it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with (tmp_path_factory.mktemp("s3") / "log").open("w") as log, pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + DEADLINE_S
            while True:
                assert server.poll() is None, "the object store ended"
                assert time.monotonic() < deadline, "the object store never came"
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            fsspec.filesystem("s3").mkdir("tafs")
            yield "s3://tafs/checkpoints"
        finally:
            server.terminate()
            server.wait(timeout=60)


def test_checkpoints_are_complete_or_absent_and_the_oldest_go(bucket) -> None:
    place = f"{bucket}/alone"
    open_folder(place).probe()
    save(place, 5, 6, 7, keep=2)
    save(place, 7, keep=2, attempt=1)
    assert saved_updates(place) == [6, 7]
    assert attempt_of(place) == (7, 1)
    assert len(files_below(place)) == 2 * 4
    open_folder(place).set_aside("until-now")
    assert (saved_updates(place), saved_updates(f"{place}.until-now")) == ([], [6, 7])


def test_a_run_killed_while_it_checkpoints_goes_on_from_the_bucket_on_another_machine(tmp_path, bucket) -> None:
    """Its learner is killed at every place of a checkpoint, then the whole of it; the next start has another folder."""
    whole = killed_run(tmp_path, "whole", {}, *LONG)
    assert whole.process.returncode == 0, whole.log.read_text()
    places = ("checkpoint.file", "checkpoint.files", "checkpoint.renamed")
    there = (*LONG, f"fleet.checkpoints={bucket}", "fleet.supervision.backoff_s=0.1")
    variables = failpoints(tmp_path / "marks", dict.fromkeys(places, 1))
    first = Going(tmp_path, "moved", *there, **variables)
    try:
        first.wait_for(lambda: first.update() >= 7, "update 7")
        os.kill(first.process.pid, signal.SIGKILL)
    finally:
        log = first.end()
    assert {mark.name for mark in (tmp_path / "marks").iterdir()} == set(places), log
    shutil.rmtree(first.folder)
    second = killed_run(tmp_path, "moved", {}, *there)
    assert second.process.returncode == 0, second.log.read_text()
    assert "going on from the checkpoint of update 6" in second.log.read_text()
    second.checkpoints = f"{bucket}/moved"
    assert_equal_to(second, whole.folder)

    (tmp_path / "elsewhere").mkdir()
    other = killed_run(tmp_path / "elsewhere", "moved", {}, *there, "learning.rate=0.01")
    assert other.process.returncode == 64
    assert "expected checkpoints of this configuration" in other.log.read_text()
