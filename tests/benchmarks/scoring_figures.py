"""What scoring costs beside the scorer, on its way through a reward worker and through a reward server.

    python -m tests.benchmarks.scoring_figures

The scorer sleeps, so that all CPU time is overhead, whatever else the machine does; figures are ratios of that to the
scorer's own time. The server runs in a process of its own, as `tafs serve-reward` does. Prints a Markdown table.
"""

import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import psutil

from rewards.remote import build_remote
from rewards.reward import checked
from rollout.types import Behaviour, Prompt, StepImages, WeightsVersion
from services.data.ledger import Claimed
from services.data.wire import BlobRef, GroupEntry, WireBehaviour, WirePrompt, WireVersion
from services.fleet.build import PlacedReward
from services.fleet.scoreboard import Scoreboard
from services.fleet.scoring_desk import ScoringDesk

SAMPLES, STEPS, GROUPS = 12, 4, 20
BEHAVIOUR = Behaviour(sigmas=(1.0, 0.75, 0.5, 0.25, 0.0), temperatures=(1.0,) * 4, height=64, width=64)


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


def board(ordinal: int, rewards) -> Scoreboard:
    blob = BlobRef(uri="redis://blob", sha256="0" * 64, size_bytes=1)
    entry = GroupEntry(
        ordinal=ordinal, attempt=0, prompt=WirePrompt.of(Prompt(id="p", text="a red 7")),
        behaviour=WireBehaviour.of(BEHAVIOUR),
        weights=WireVersion.of(WeightsVersion(version=1, update=0, lineage=0, digest="ab")),
        transitions=(0, 1, 2), image_steps=(0, 1, 2, 3), diversity=(),
        latents=(blob,) * SAMPLES, images=(blob,) * SAMPLES,
        producer="rollout-0", created_ms=0, timings={},
    )  # fmt: skip
    return Scoreboard(Claimed(entry_id="0-0", payload=b"", owner="reward-0/1", ordinal=ordinal), entry, rewards)


def worker_overhead(seconds: float, side: int, groups: int) -> float:
    """CPU seconds of a worker's desk from images to the entry, per second of scorer."""
    reward = Sleeper(seconds)
    rewards = (PlacedReward("sleeper", reward, lambda _: (0, 1, 2, 3), 64),)
    pixels = np.random.default_rng(0).integers(0, 256, (SAMPLES, STEPS, side, side, 3), dtype=np.uint8)
    entries: list[object] = []
    desk = ScoringDesk(rewards, 2, lambda done, error: entries.append(done.entry("reward-0")))
    started = time.process_time()
    for ordinal in range(groups):
        desk.take(board(ordinal, rewards), StepImages(steps=(0, 1, 2, 3), pixels=pixels))
    desk.finish()
    spent = time.process_time() - started
    desk.close()
    assert len(entries) == groups
    return spent / (groups * SAMPLES * STEPS * seconds)


def served(seconds: float, side: int, batch: int, calls: int) -> tuple[float, float]:
    """CPU milliseconds an image of server and client, raw uint8 on the wire."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", __spec__.name, "--serve", str(port), str(seconds)])
    try:
        for _ in range(600):
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        remote = build_remote(url=f"http://127.0.0.1:{port}")
        images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
        texts, metadata = ["a red 7"] * batch, [{}] * batch
        checked(remote, images, texts, metadata)
        there, here = psutil.Process(process.pid).cpu_times(), time.process_time()
        for _ in range(calls):
            checked(remote, images, texts, metadata)
        now, spent = psutil.Process(process.pid).cpu_times(), time.process_time() - here
        remote.close()
        server = now.user + now.system - there.user - there.system
        return 1000 * server / (calls * batch), 1000 * spent / (calls * batch)
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    print("| worker, images of 64 px | overhead |\n|---|---|")
    for seconds in (0.002, 0.1):
        share = worker_overhead(seconds, 64, 20 if seconds < 0.05 else 3)
        print(f"| {1000 * seconds:g} ms an image | {100 * share:.2f} % |", flush=True)
    print("\n| server, 512 px, raw | server CPU | client CPU | throughput of the direct call's |\n|---|---|---|---|")
    for batch in (8, 32):
        server, client = served(0.02, 512, batch, 10)
        # One core for the server: its own work and the scorer's come one after the other, the client's is beside them.
        print(
            f"| 20 ms an image, {batch} a request | {server:.2f} ms an image | {client:.2f} ms an image | "
            f"{100 * 20 / (20 + server):.0f} % |",
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
