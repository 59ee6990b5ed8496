"""One node: a token that is wrong, a run, a stop that drains, and the same command again. Prints one JSON line."""

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.ray_cluster import ADDRESS, ROOT, RayCluster, submission


def main(folder: Path) -> None:
    cluster = RayCluster(folder)
    cluster.start_head(cpus=2)
    refused = cluster.submit("name=long", "learning.updates=400", token=cluster.wrong)
    started = cluster.submit("name=long", "learning.updates=400", wait=False)
    cluster.wait_for_update("long", 2)
    again = cluster.submit("name=long", "learning.updates=400", wait=False)
    drain = [sys.executable, "-m", "services.cli.drain_jobs", "--wait-s", "120"]
    drained = subprocess.run(drain, cwd=ROOT, capture_output=True, text=True, check=False)
    stopped_at, checkpoints = cluster.update_of("long"), cluster.checkpoints("long")
    resumed = cluster.submit("name=long", "learning.updates=400", wait=False)
    cluster.wait_for_update("long", stopped_at + 1)
    log = cluster.ray("job", "logs", "--address", ADDRESS, submission(resumed))
    seen = {
        "refused": [refused.returncode, refused.stderr[-2000:]],
        "again": again.stdout,
        "first": submission(started),
        "drained": [drained.returncode, drained.stdout],
        "stopped_at": stopped_at,
        "checkpoints": checkpoints,
        "resumed_log": log[-4000:],
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
