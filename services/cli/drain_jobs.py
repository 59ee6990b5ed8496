"""Ask all jobs of this node's Ray to drain, and wait until they have: what a head's pod does before it is stopped.

python -m services.cli.drain_jobs --wait-s 180
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from services.fleet.ray_jobs import POLL_S, JobServer, ray_token

ADDRESS = "http://127.0.0.1:8265"


def drain(server: JobServer, wait_s: float, clock: Callable[[], float] = time.monotonic) -> bool:
    """Whether no job was left after wait_s."""
    deadline = clock() + wait_s
    for job in server.going_on():
        print(f"stopping job {job.id}", flush=True)
        server.stop(job.id)
    while server.going_on():
        if clock() > deadline:
            return False
        time.sleep(POLL_S)
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default=ADDRESS)
    parser.add_argument("--wait-s", type=float, default=180.0)
    given = parser.parse_args()
    raise SystemExit(0 if drain(JobServer(given.address, ray_token()), given.wait_s) else 1)
