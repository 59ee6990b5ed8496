"""Reservations on a real Ray that believes it has two GPUs."""

import gc
import time
import warnings

import pytest

from services.errors import StalledError
from services.fleet.planning.placement import Bundle, Needs

pytestmark = pytest.mark.integration

PAIRS = [Bundle((f"learner-{i}", f"rollout-{i}"), Needs(cpus=0.5, gpus=1.0)) for i in range(2)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text("a" * 64)
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    from services.fleet.supervision.actors import read_authentication_anew

    read_authentication_anew()
    ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield ray
    ray.shutdown()
    patch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # Ray leaves its processes' handles to the collector, which would warn of them in another test


@pytest.mark.filterwarnings("ignore")
def test_a_pair_has_one_gpu_a_run_has_all_its_room_or_none_and_added_slots_go_anywhere(cluster) -> None:
    from services.fleet.supervision.actors import Reservation, cluster_nodes, cluster_resources

    @cluster.remote
    class Tenant:
        def gpus(self):
            return cluster.get_gpu_ids()

    (node,) = cluster_nodes()
    assert (node.cpus, node.gpus) == (2, 2)
    first = Reservation(PAIRS, timeout_s=20)
    tenants = {
        slot: Tenant.options(num_cpus=0.25, num_gpus=0.5, scheduling_strategy=first.strategy(slot)).remote()
        for bundle in PAIRS
        for slot in bundle.slots
    }
    gpus = {slot: cluster.get(tenant.gpus.remote(), timeout=60) for slot, tenant in tenants.items()}
    assert gpus["learner-0"] == gpus["rollout-0"] != gpus["learner-1"] == gpus["rollout-1"]

    started = time.monotonic()
    with pytest.raises(StalledError, match=r"no room for all 2 reservations .*{'CPU': 2\.0, 'GPU': 2\.0,") as caught:
        Reservation(PAIRS, timeout_s=1)
    assert time.monotonic() - started < 20
    assert "_group_" not in str(caught.value)
    assert set(cluster_resources()) >= {"CPU", "GPU", "memory"}

    extra = Tenant.options(num_cpus=0.25, scheduling_strategy=first.strategy("rollout-7")).remote()
    assert cluster.get(extra.gpus.remote(), timeout=60) == []
