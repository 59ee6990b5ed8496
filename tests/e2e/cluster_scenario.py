"""Three nodes, the head without CPUs, one Redis server with a password: what several runs meet there. Prints one JSON
line.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import yaml
from safetensors.torch import load_file

from rollout.trained import digest_tensors
from services.data.server import find_binary
from services.fleet.ray_jobs import JobServer, ray_token
from services.observe.workers import read_workers
from tests.e2e.ray_cluster import ADDRESS, ROOT, SHORT, RayCluster, raylet_of, submission

PASSWORD = "c" * 32
REDIS_PORT = 6400
TINY = tuple(f"fleet.{role}.cpus=0.3" for role in ("learner", "rollout", "reward"))
EXACT = ("fleet.max_staleness=0", "learning.updates=8", *TINY)


def main(folder: Path) -> None:
    cluster = RayCluster(folder, TAFS_REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:{REDIS_PORT}/0")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    redis = subprocess.Popen([str(find_binary()), "-"], stdin=subprocess.PIPE, text=True, **quiet)
    redis.stdin.write(f'port {REDIS_PORT}\nbind 127.0.0.1\nrequirepass {PASSWORD}\nsave ""\n')
    redis.stdin.close()
    cluster.start_head(cpus=0)
    cluster.add_node(cpus=2)
    cluster.add_node(cpus=2)
    server = JobServer(ADDRESS, ray_token())

    bad = cluster.submit("name=bad", "learning.updates=0")

    side_by_side = {}

    def run(name: str) -> None:
        side_by_side[name] = cluster.submit(f"name={name}", *EXACT).returncode

    both = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()

    killed_at = kill_in_the_middle(cluster, server)
    resumed = cluster.submit("name=killed", *EXACT)

    lost = submission(cluster.submit("name=lost", "learning.updates=12", *TINY, wait=False))
    cluster.wait_for_update("lost", 1)
    (rollout,) = (worker for worker in read_workers(cluster.runs / "lost").workers if worker.role == "rollout")
    os.kill(raylet_of(rollout.pid), signal.SIGKILL)
    ended = wait_for_end(server, lost)
    whole = cluster.submit("name=lost", "learning.updates=12", *TINY)
    seen = {
        "bad": [bad.returncode, bad.stdout[-2000:]],
        "side_by_side": side_by_side,
        "killed_at": killed_at,
        "resumed": [resumed.returncode, (resumed.stdout + resumed.stderr)[-3000:]],
        "digests": {name: adapter(cluster.runs / name) for name in ("one", "two", "killed")},
        "lost": ended,
        "whole": [whole.returncode, (whole.stdout + whole.stderr)[-3000:]],
        "secret_in_files": [str(path) for path in cluster.runs.rglob("*") if path.is_file() and holds_secret(path)],
    }
    print(json.dumps(seen))


def kill_in_the_middle(cluster: RayCluster, server: JobServer) -> int:
    """The command of the page by hand, with Ray's own patience of three seconds: too short for a drain under load, and
    made shorter here, so that the stop kills.
    """
    environment = yaml.safe_load((ROOT / "deploy/ray/runtime-env.yaml").read_text())
    environment["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] = "0"
    impatient = cluster.folder / "runtime-env.yaml"
    impatient.write_text(yaml.safe_dump(environment))
    cluster.ray(
        *("job", "submit", "--no-wait", "--address", ADDRESS, "--submission-id", "killed-1", "--working-dir", "."),
        *("--runtime-env", str(impatient), "--", sys.executable, "-m", "services", "train"),
        *("deploy/configs/cluster.yaml", *SHORT, *EXACT, "name=killed", f"runs={cluster.runs}"),
    )
    cluster.wait_for_update("killed", 2)
    server.stop("killed-1")
    wait_for_end(server, "killed-1")
    return cluster.update_of("killed")


def wait_for_end(server: JobServer, job: str) -> str:
    deadline = time.monotonic() + 240
    while server.job(job).going_on and time.monotonic() < deadline:
        time.sleep(0.5)
    return server.job(job).status


def adapter(run: Path) -> str:
    """A digest of the tensors; the file's header names them in any order."""
    return digest_tensors(load_file(run / "adapter" / "pytorch_lora_weights.safetensors"))


def holds_secret(path: Path) -> bool:
    return PASSWORD.encode() in path.read_bytes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
