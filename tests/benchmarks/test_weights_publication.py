"""From published to applied on a worker, for 100 MB, against the sum of the passes that cannot be left out.

    make bench-data

The passes, each measured singly in the same run: hash the weights, write the artifact, verify what was written (read it
back), fetch it, copy it into the module, hash the module.
"""

import statistics
import time

import pytest
import safetensors.torch
import torch

from rollout.trained import digest_tensors, load_tensors, trained_tensors
from rollout.types import WeightsVersion
from services.data.server import EmbeddedServer, connect
from services.data.weights import WeightsStore

pytestmark = [pytest.mark.slow, pytest.mark.integration]

ROUNDS = 5
LAYERS, WIDTH = 25, 1000  # of float32: 100 MB


def seconds(action):
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def test_publication_takes_little_more_than_its_mandated_passes() -> None:
    torch.set_num_threads(1)
    network = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
    tensors = {name: tensor.detach().clone() for name, tensor in trained_tensors(network).items()}
    data = safetensors.torch.save(tensors)
    with EmbeddedServer() as server:
        redis = connect(server.url)
        redis.set("{run}:epoch", 1)
        learner, worker = WeightsStore(redis, "run", keep=2), WeightsStore(redis, "run", keep=2)

        def publish_and_apply(number):
            version = WeightsVersion(version=number, update=0, lineage=0, digest=digest_tensors(tensors))
            learner.publish(tensors, version, 1)
            load_tensors(network, worker.fetch(worker.latest()))
            assert digest_tensors(trained_tensors(network)) == version.digest

        def passes():
            return {
                "hash": seconds(lambda: digest_tensors(tensors)),
                "write": seconds(lambda: redis.hset("bare", mapping={"data": data})),
                "verify": seconds(lambda: redis.hget("bare", "data")),
                "fetch": seconds(lambda: redis.hget("bare", "data")),
                "copy": seconds(lambda: load_tensors(network, tensors)),
                "hash again": seconds(lambda: digest_tensors(trained_tensors(network))),
            }

        rounds = [
            (passes(), seconds(lambda number=number: publish_and_apply(number))) for number in range(1, ROUNDS + 1)
        ]
        redis.close()
    ratio = statistics.median(ours / sum(single.values()) for single, ours in rounds)
    single, ours = rounds[-1]
    told = ", ".join(f"{name} {1000 * took:.0f}" for name, took in single.items())
    print(f"\n100 MB published and applied in {1000 * ours:.0f} ms; passes in ms: {told}; ratio {ratio:.2f}")
    assert ratio <= 1.5
