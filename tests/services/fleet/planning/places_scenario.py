"""Where Ray puts a run's bundles, and what becomes of the same fleet when its learner may go anywhere: a line for each.

python places_scenario.py NODE,NODE RUN_FILE [OVERRIDE...], in namespaces of its own.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from services.cli.run_file import load_run_file
from services.errors import StalledError
from services.fleet.planning.placement import bundles_of, parse_nodes

STORE_BYTES = 80 * 2**20


def main(described: list[str], run_file: str, overrides: list[str]) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray
    from ray.cluster_utils import Cluster

    from services.fleet.supervision.actors import Reservation

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES})
    for text in described:
        for node in parse_nodes(text):
            cluster.add_node(
                num_cpus=node.cpus,
                num_gpus=node.gpus,
                resources=dict(node.resources),
                object_store_memory=STORE_BYTES,
            )
    ray.init(address=cluster.address, log_to_driver=False)
    fleet = load_run_file(Path(run_file), overrides).fleet
    bundles = bundles_of(fleet)
    reservation = Reservation(bundles, timeout_s=60)
    kinds = {node["NodeID"]: name for node in ray.nodes() for name in ("steady", "spot") if node["Resources"].get(name)}
    table = ray.util.placement_group_table(reservation._group)["bundles_to_node_id"]
    placed = Counter(f"{bundles[index].slots[0].partition('-')[0]} {kinds[node]}" for index, node in table.items())
    print(dict(sorted(placed.items())))
    ray.util.remove_placement_group(reservation._group)
    anywhere = fleet.model_copy(update={"learner": fleet.learner.model_copy(update={"resources": {}})})
    try:
        Reservation(bundles_of(anywhere), timeout_s=10)
        print("placed")
    except StalledError as error:
        print("no room:", str(error).rpartition("; ")[2])


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2], sys.argv[3:])
