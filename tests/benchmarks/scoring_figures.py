"""What scoring costs beside the scorer, on its way through a reward worker and through a reward server.

    python -m tests.benchmarks.scoring_figures

The scorer sleeps, so that all CPU time is overhead, whatever else the machine does; figures are ratios of that to the
scorer's own time. The worker is the run's own, on a real queue: it claims, fetches and decodes the images, scores them,
and publishes. The server runs in a process of its own, as `tafs serve-reward` does. Prints Markdown tables.
"""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import psutil
from msgspec.structs import replace

from rewards.remote import RemoteReward, build_remote
from rewards.reward import checked
from rollout.types import StepImages
from services.cli.run_file import load_run_file
from services.data.blobs import build_blobs
from services.data.codec import encode_images
from services.data.queue import Ledger, Queue
from services.data.server import EmbeddedServer, connect
from services.data.wire import Ticket, WireBehaviour, decode, encode
from services.fleet.messages import Link
from services.fleet.workers.reward_worker import RewardWorker
from tests.services.data.entries import group_entry

QUICKSTART = Path(__file__).resolve().parents[2] / "deploy/configs/quickstart.yaml"
SAMPLES, STEPS = 12, 4
LOOK_S = 0.5


class Sleeper:
    """A scorer that takes `seconds` an image and no CPU."""

    name = "sleeper"
    range = (0.0, 1.0)
    required_metadata = ()
    compares = False

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, images, prompts, metadata):
        time.sleep(self.seconds * len(images))
        return np.full(len(images), 0.5, np.float32)


def worker_overhead(redis_url: str, seconds: float, side: int, groups: int) -> float:
    """CPU seconds of a reward worker's process over `groups` groups that wait for it, per second of scorer."""
    run = f"{seconds:g}-{side}"
    reward = f"{{use: 'tests.benchmarks.scoring_figures:Sleeper', options: {{seconds: {seconds}}}}}"
    config = load_run_file(QUICKSTART, [f"name={run}", f"rewards=[{reward}]"])
    redis = connect(redis_url)
    queue = Queue(redis, run)
    queue.begin(Ledger(groups_per_update=groups, max_staleness=0, total_groups=groups))
    draw(queue, build_blobs("redis://", redis, run), WireBehaviour.of(config.sampling.behaviour()), side, groups)
    worker = RewardWorker(config, Link(redis_url=redis_url, run=run, slot="reward-0"))
    thread = threading.Thread(target=worker.run, daemon=True)
    started = time.process_time()
    thread.start()
    while queue.statistics().stages["scored"].entries < groups:
        time.sleep(LOOK_S)
    spent = time.process_time() - started
    queue.request_stop("done")
    thread.join()
    redis.close()
    return spent / (groups * SAMPLES * STEPS * seconds)


def draw(queue, blobs, behaviour, side: int, groups: int) -> None:
    """Publish groups of random images, as a rollout worker would."""
    numbers, steps = np.random.default_rng(0), tuple(range(STEPS))
    queue.admit(0)
    for claimed in queue.claim("tickets", "rollout-0/a", groups, 1000):
        ticket = decode(claimed.payload, Ticket)
        pixels = numbers.integers(0, 256, (SAMPLES, STEPS, side, side, 3), dtype=np.uint8)
        names = [f"{ticket.ordinal}/{sample}" for sample in range(SAMPLES)]
        entry = replace(
            group_entry(ticket.ordinal),
            behaviour=behaviour,
            image_steps=steps,
            latents=blobs.put([f"{name}/latents" for name in names], [b"latents"] * SAMPLES),
            images=blobs.put(names, encode_images(StepImages(steps=steps, pixels=pixels))),
        )
        assert queue.publish("tickets", claimed, encode(entry), ticket.ordinal, 0, entry.payload_bytes)


def served(seconds: float, side: int, batch: int, calls: int) -> tuple[float, float, float]:
    """CPU milliseconds an image of server and client, raw uint8 on the wire; the median over calls of the direct call's
    time over the served one's, a call of each in turn, no question waiting behind another.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", __spec__.name, "--serve", str(port), str(seconds)])
    try:
        remote = connected(port)
        direct = Sleeper(seconds)
        images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
        texts, metadata = ["a red 7"] * batch, [{}] * batch
        checked(remote, images, texts, metadata)
        ratios, spent = [], 0.0
        there = psutil.Process(process.pid).cpu_times()
        for _ in range(calls):
            first, here = time.perf_counter(), time.process_time()
            checked(remote, images, texts, metadata)
            spent += time.process_time() - here
            second = time.perf_counter()
            checked(direct, images, texts, metadata)
            ratios.append((time.perf_counter() - second) / (second - first))
        now = psutil.Process(process.pid).cpu_times()
        remote.close()
        server = now.user + now.system - there.user - there.system
        return 1000 * server / (calls * batch), 1000 * spent / (calls * batch), median(ratios)
    finally:
        process.terminate()
        process.wait()


def connected(port: int) -> RemoteReward:
    """The reward of the server that is being started at the port."""
    for _ in range(600):
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)
            break
        except httpx.HTTPError:
            time.sleep(0.1)
    return build_remote(url=f"http://127.0.0.1:{port}")


def main() -> None:
    print("| a reward worker, images of 64 px | overhead |\n|---|---|", flush=True)
    with EmbeddedServer() as server:
        for seconds, groups in ((0.002, 60), (0.1, 4)):
            share = worker_overhead(server.url, seconds, 64, groups)
            print(f"| {1000 * seconds:g} ms an image | {100 * share:.2f} % |", flush=True)
    head = ("a reward server, 512 px, raw", "server CPU", "client CPU", "on one core", "one call after another")
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    for batch in (8, 32):
        there, here, ratio = served(0.02, 512, batch, 20)
        # One core for the server: its own work and the scorer's come one after the other, the client's is beside them.
        print(
            f"| 20 ms an image, {batch} a request | {there:.2f} ms an image | {here:.2f} ms an image | "
            f"{100 * 20 / (20 + there):.0f} % | {100 * ratio:.0f} % |",
            flush=True,
        )


def serve(port: int, seconds: float) -> None:
    import uvicorn

    from services.serving.app import RewardServer
    from services.serving.config import ServingConfig

    config = ServingConfig.model_validate({"use": "sleeper", "port": port})
    uvicorn.run(RewardServer(Sleeper(seconds), config, None).app, port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), float(sys.argv[3]))
    else:
        main()
