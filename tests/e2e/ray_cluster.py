"""A Ray cluster of several nodes on this machine, with the job server and a token.

For scenarios that tests start in namespaces (`NAMESPACE`): network and processes are their own, and whatever was
started ends with them.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "http://127.0.0.1:8265"
NAMESPACE = ("unshare", "-n", "-p", "-f", "--mount-proc", "--kill-child", "sh", "-c", '"$@"; exit $?', "sh")
"""What is put before a command. The shell is the namespace's first process and reaps orphans: Ray waits for a stopped
job until its process is gone from the table, and Python reaps only its own.
"""
DEADLINE_S = 300
SHORT = (
    "learning.groups_per_update=2",
    "sampling.samples_per_group=4",
    "learning.checkpoint_every=1",
    "evaluation=null",
)
"""Overrides: updates of a second, and a checkpoint after each."""


def namespaces() -> bool:
    """Whether this machine lets us have namespaces of our own."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


class RayCluster:
    """Nodes that are started one by one; they end with the namespace."""

    def __init__(self, folder: Path, **environment: str) -> None:
        """environment: what the nodes know, and so every run on them."""
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        self.folder = folder
        self.runs = folder / "runs"
        self.token, self.wrong = folder / "token", folder / "wrong"
        self._nodes = 0
        self.token.write_text("a" * 64)
        self.wrong.write_text("b" * 64)
        quiet = {"RAY_DISABLE_IMPORT_WARNING": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
        os.environ |= {"HOME": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}
        os.environ |= quiet | environment

    def start_head(self, cpus: int) -> None:
        self.ray(
            *("start", "--head", "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", "--port=6379"),
            *("--dashboard-host=127.0.0.1", "--include-dashboard=true", f"--temp-dir={self.folder / 'r'}"),
        )

    def add_node(self, cpus: int) -> None:
        """One more raylet. All have one address, so that its agent needs a port of its own; and one session folder, in
        which each has to unpack what jobs upload for itself.
        """
        self._nodes += 1
        own = self.folder / f"unpacked-{self._nodes}"
        own.mkdir()
        shared = (self.folder / "r" / "session_latest").resolve() / "runtime_resources"
        self.ray(
            *("start", "--address=127.0.0.1:6379", "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}"),
            f"--dashboard-agent-listen-port={52365 + self._nodes}",
            before=("unshare", "-m", "sh", "-c", f'mount --bind {own} {shared}; exec "$@"', "sh"),
        )

    def ray(self, *arguments: str, before: Sequence[str] = ()) -> str:
        """Ray's command line; what it starts stays, so that its output goes to a file: a pipe would never end."""
        command = [*before, sys.executable, "-m", "ray.scripts.scripts", *arguments]
        with (self.folder / "ray.log").open("w+") as log:
            done = subprocess.run(command, stdout=log, stderr=log, timeout=180, check=False, cwd=ROOT)
            log.seek(0)
            output = log.read()
        assert done.returncode == 0, output
        return output

    def submit(self, *overrides: str, wait: bool = True, token: Path | None = None) -> subprocess.CompletedProcess:
        """`tafs submit` of the quickstart on a cluster, with updates of a second."""
        command = [sys.executable, "-m", "services", "submit", "deploy/configs/cluster.yaml", *SHORT, *overrides]
        command += [f"runs={self.runs}", "--address", ADDRESS, "--python", sys.executable]
        command += [] if wait else ["--no-wait"]
        environment = {**os.environ, "RAY_AUTH_TOKEN_PATH": str(token or self.token)}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )

    def update_of(self, run: str) -> int:
        """The last update that the run has finished."""
        status = self.runs / run / "status.json"
        told = json.loads(status.read_text()) if status.exists() else {}
        return (told.get("record") or {}).get("update", 0)

    def wait_for_update(self, run: str, update: int) -> int:
        """The update that the run has come to, once it is at least this one."""
        deadline = time.monotonic() + DEADLINE_S
        while (now := self.update_of(run)) < update:
            assert time.monotonic() < deadline, f"{run} stays at update {now}: {self.ray('job', 'list')[-3000:]}"
            time.sleep(0.2)
        return now

    def checkpoints(self, run: str) -> list[str]:
        return sorted(path.name for path in (self.runs / run / "checkpoints").glob("update_*"))


def submission(done: subprocess.CompletedProcess) -> str:
    """The job's name, from what `tafs submit` prints last without waiting."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().rsplit(" ", maxsplit=1)[-1]


def raylet_of(pid: int) -> int:
    """The process of the node that a worker's process belongs to."""
    while "raylet/raylet" not in Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]:
        status = Path(f"/proc/{pid}/status").read_text()
        pid = int(status.partition("PPid:")[2].split()[0])
        assert pid > 1, "expected a worker of a raylet"
    return pid
