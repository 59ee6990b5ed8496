from dataclasses import replace

import pytest
import torch
from redis import Redis

from rollout.trained import digest_tensors, load_tensors, trained_tensors
from rollout.types import WeightsVersion
from services.data.weights import WeightsStore
from services.errors import RunMissing, ServerFull, Superseded, WeightsCorrupt, WeightsError, WeightsMissing

pytestmark = pytest.mark.integration

EPOCH = 3


def tensors(value=1.0):
    return {"a.weight": torch.full((2, 3), value), "b.bias": torch.full((3,), value, dtype=torch.bfloat16)}


def named(number, held):
    return WeightsVersion(version=number, update=number, lineage=0, digest=digest_tensors(held))


def published(store, number):
    version = named(number, tensors(float(number)))
    store.publish(tensors(float(number)), version, EPOCH)
    return version


@pytest.fixture
def store(redis):
    redis.set("{run}:epoch", EPOCH)
    return WeightsStore(redis, "run", keep=2)


def test_a_published_version_is_the_latest_and_comes_back_bit_for_bit(store) -> None:
    assert store.latest() is None
    published(store, 1)
    version = published(store, 2)
    assert store.latest() == version
    fetched = store.fetch(version)
    assert fetched.keys() == tensors().keys()
    assert all(torch.equal(fetched[name], tensor) for name, tensor in tensors(2.0).items())
    assert {name: tensor.dtype for name, tensor in fetched.items()} == {
        "a.weight": torch.float32,
        "b.bias": torch.bfloat16,
    }


def test_parameters_and_views_are_published_as_they_are(store) -> None:
    held = {"w": torch.nn.Parameter(torch.arange(6.0).reshape(2, 3)).T}
    store.publish(held, named(1, held), EPOCH)
    assert torch.equal(store.fetch(named(1, held))["w"], held["w"])


def test_versions_beyond_those_kept_are_deleted(store, redis) -> None:
    versions = [published(store, number) for number in range(1, 5)]
    with pytest.raises(WeightsMissing, match="version 2: expected its bytes"):
        store.fetch(versions[1])
    assert torch.equal(store.fetch(versions[2])["a.weight"], tensors(3.0)["a.weight"])
    assert set(redis.keys("{run}:*")) == {
        b"{run}:epoch", b"{run}:weights", b"{run}:weights:versions", b"{run}:weights:3", b"{run}:weights:4"
    }  # fmt: skip


def test_a_version_is_never_used_twice(store) -> None:
    published(store, 5)
    for number in (5, 4):
        with pytest.raises(WeightsError, match=f"above 5, the latest, found {number}"):
            published(store, number)


def test_tensors_without_the_versions_digest_are_not_published(store, redis) -> None:
    version = replace(named(1, tensors()), digest="0" * 64)
    with pytest.raises(
        WeightsCorrupt, match=f"version 1: expected digest {'0' * 64}, found {named(1, tensors()).digest}"
    ):
        store.publish(tensors(), version, EPOCH)
    assert redis.keys("{run}:*") == [b"{run}:epoch"]


def test_weights_of_another_digest_are_not_handed_out(store) -> None:
    version = published(store, 1)
    with pytest.raises(WeightsCorrupt, match=r"version 1: expected digest .*, found"):
        store.fetch(replace(version, digest="0" * 64))


def test_a_flipped_byte_in_redis_is_found(store, redis) -> None:
    version = published(store, 1)
    data = bytearray(redis.hget("{run}:weights:1", "0"))
    data[-1] ^= 1
    redis.hset("{run}:weights:1", "0", bytes(data))
    with pytest.raises(WeightsCorrupt, match=r"version 1: expected digest [0-9a-f]{64}, found [0-9a-f]{64}"):
        store.fetch(version)


def test_an_artifact_larger_than_a_value_travels_in_chunks(redis, store) -> None:
    chunked = WeightsStore(redis, "run", keep=2, chunk_bytes=100)
    version = published(chunked, 1)
    fields = redis.hgetall("{run}:weights:1")
    sizes = [len(fields[str(number).encode()]) for number in range(len(fields) - 1)]
    assert sizes[:-1] == [100] * (len(sizes) - 1)
    assert len(sizes) >= 2
    assert sum(sizes) == int(fields[b"size_bytes"])
    assert torch.equal(store.fetch(version)["b.bias"], tensors(1.0)["b.bias"])
    redis.hdel("{run}:weights:1", "1")
    with pytest.raises(WeightsCorrupt, match=r"version 1: expected \d+ bytes, found 100"):
        store.fetch(version)


def test_bytes_that_are_no_safetensors_are_refused(redis, store) -> None:
    version = published(store, 1)
    redis.hset("{run}:weights:1", mapping={"0": b"?" * 40, "size_bytes": 40})
    with pytest.raises(WeightsCorrupt, match="version 1: expected safetensors"):
        store.fetch(version)


def test_a_refused_version_leaves_the_live_weights_as_they_are_and_a_late_joiner_catches_up(redis, store) -> None:
    network = torch.nn.Linear(3, 2)
    before = digest_tensors(trained_tensors(network))
    held = {name: torch.ones_like(tensor) for name, tensor in trained_tensors(network).items()}
    version = named(1, held)
    store.publish(held, version, EPOCH)
    sound = redis.hget("{run}:weights:1", "0")
    redis.hset("{run}:weights:1", "0", sound[:-4] + b"\0\0\0\0")
    with pytest.raises(WeightsCorrupt):
        load_tensors(network, store.fetch(store.latest()))
    assert digest_tensors(trained_tensors(network)) == before
    redis.hset("{run}:weights:1", "0", sound)
    late = WeightsStore(redis, "run", keep=2)
    load_tensors(network, late.fetch(late.latest()))
    assert digest_tensors(trained_tensors(network)) == version.digest


@pytest.mark.slow
def test_an_artifact_of_real_size_beyond_the_servers_largest_value_arrives(redis, store) -> None:
    held = {f"w{i}": torch.full((60 * 2**20,), float(i)) for i in range(3)}  # 720 MiB
    store.publish(held, named(1, held), EPOCH)
    fetched = store.fetch(store.latest())
    assert all(torch.equal(fetched[name], tensor) for name, tensor in held.items())


def test_what_a_crash_left_before_the_pointer_moved_is_not_seen_and_goes_in_time(store, redis) -> None:
    published(store, 1)
    redis.zadd("{run}:weights:versions", {"2": 2})
    redis.hset("{run}:weights:2", "0", b"half")
    assert store.latest().version == 1
    for number in (3, 4):
        published(store, number)
    assert not redis.exists("{run}:weights:2")


def test_a_full_server_moves_no_pointer(store, redis) -> None:
    version = published(store, 1)
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(ServerFull, match="publish weights version 2"):
            published(store, 2)
    finally:
        redis.config_set("maxmemory", 0)
    assert store.latest() == version


def test_a_learner_whose_run_was_taken_over_moves_no_pointer(store, redis) -> None:
    version = published(store, 1)
    redis.set("{run}:epoch", EPOCH + 1)
    with pytest.raises(Superseded, match="expected 4, found 3"):
        published(store, 2)
    redis.delete("{run}:epoch")
    with pytest.raises(RunMissing):
        published(store, 3)
    assert store.latest() == version


class Careless(Redis):
    """A server, or a way to it, that flips a bit of what it is given."""

    def hset(self, name, mapping):
        if "0" in mapping:
            flipped = bytearray(mapping["0"])
            flipped[-1] ^= 1
            mapping = {"0": bytes(flipped)}
        return super().hset(name, mapping=mapping)


def test_weights_that_the_server_did_not_keep_are_not_committed(redis) -> None:
    redis.set("{run}:epoch", EPOCH)
    store = WeightsStore(Careless(connection_pool=redis.connection_pool), "run", keep=2)
    with pytest.raises(WeightsCorrupt, match=r"version 1: expected \d+ bytes as written"):
        published(store, 1)
    assert store.latest() is None


def test_a_store_keeps_at_least_one_version(redis) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        WeightsStore(redis, "run", keep=0)
