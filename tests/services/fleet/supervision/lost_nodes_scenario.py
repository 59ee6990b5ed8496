"""Three nodes with a worker each: one is killed alone, one vanishes with its node, one's node says goodbye. Prints for
each whether it died with its node, in namespaces of its own.
"""

import os
import signal
import subprocess
import time

STORE_BYTES = 80 * 2**20
DEADLINE_S = 90.0


def pid_of(worker) -> int:
    import ray

    return ray.get(worker._actor.__ray_call__.remote(lambda host: os.getpid()), timeout=DEADLINE_S)


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray
    from ray.cluster_utils import Cluster

    from services.fleet.planning.placement import Needs
    from services.fleet.supervision.actors import Worker, finished, lost_nodes
    from tests.e2e.ray_cluster import raylet_of

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES})
    names = ("killed", "vanished", "left")
    nodes = {n: cluster.add_node(num_cpus=1, resources={n: 1}, object_store_memory=STORE_BYTES) for n in names}
    ray.init(address=cluster.address, log_to_driver=False)
    workers = {name: Worker(name, Needs(cpus=1, resources={name: 1}), None) for name in names}
    pids = {name: pid_of(worker) for name, worker in workers.items()}

    os.kill(pids["killed"], signal.SIGKILL)
    os.kill(raylet_of(pids["vanished"]), signal.SIGKILL)
    cluster.remove_node(nodes["left"])
    over = finished([worker.gone for worker in workers.values()], DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while len(lost := lost_nodes()) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    print(len(over), {name: worker.died_with(lost) for name, worker in workers.items()})


if __name__ == "__main__":
    main()
