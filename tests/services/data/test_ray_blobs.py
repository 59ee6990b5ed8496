"""Blobs in the object store of a real Ray cluster of one node."""

import gc
import os
import signal
import warnings

import pytest

from services.data.blobs import build_blobs
from services.data.wire import BlobRef
from services.errors import BlobMissing
from services.fleet.supervision.actors import ray_session

from .blob_contract import BLOBS, NAMES, BlobContract

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ray_session():
            yield
        gc.collect()  # Ray leaves its processes' handles to the collector, which would warn of them in another test


class TestRayStore(BlobContract):
    @pytest.fixture
    def store(self):
        store = build_blobs("ray://", None, "run")
        yield store
        store.delete([BlobRef(uri=uri, sha256="", size_bytes=0) for uri in store.uris()])


def test_blobs_outlive_the_ray_worker_that_made_them() -> None:
    import ray

    def make():
        return os.getpid(), build_blobs("ray://", None, "run").put(NAMES, BLOBS)

    pid, refs = ray.get(ray.remote(make).options(num_cpus=0).remote())
    os.kill(pid, signal.SIGKILL)
    store = build_blobs("ray://", None, "run")
    assert store.get(refs) == [b"first", b"second"]
    store.close()


def test_blobs_are_missing_when_their_ray_host_is_gone_and_the_node_goes_on() -> None:
    store = build_blobs("ray://", None, "run")
    lost = store.put(NAMES, BLOBS)
    build_blobs("ray://", None, "run").close()
    with pytest.raises(BlobMissing, match="gone with their host"):
        store.get(lost)
    store.delete(lost)
    kept = store.put(NAMES, BLOBS)
    assert store.get(kept) == [b"first", b"second"]
    store.close()
