"""Ten thousand images through each scorer that runs on a CPU: `make memory` prints what it took."""

import gc
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

IMAGES, BATCH, SIDE = 10_000, 50, 64
FLAT_MIB = 12.0
"""How much the resident set may grow between the first fifth of the images and the last: an image leaked is 12 KiB,
117 MiB in all; allocators' rounding is a few MiB."""
SCORERS = {
    "jpeg_size": {"direction": "smaller"},
    "nsfw": {},
    "text_rendering": {},
    "text_rendering scene": {"layout": "scene", "side": 64},
}
ROOT = Path(__file__).resolve().parents[2]


def measure(name: str) -> None:
    """Score all images in this process; print seconds and the resident set's highest value by fifths, in MiB."""
    import numpy as np
    import psutil

    from rewards.build import build
    from rewards.reward import checked

    reward = build(name.split(maxsplit=1)[0], SCORERS[name])
    numbers, process = np.random.default_rng(0), psutil.Process()
    metadata = [{"target": "42"}] * BATCH
    fifths: list[float] = []
    started = time.perf_counter()
    for _ in range(5):
        highest = 0
        for _ in range(IMAGES // BATCH // 5):
            images = numbers.integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8)
            checked(reward, images, ["a red 42"] * BATCH, metadata)
            highest = max(highest, process.memory_info().rss)
        gc.collect()
        fifths.append(highest / 2**20)
    print(json.dumps({"seconds": time.perf_counter() - started, "resident_mib": fifths}))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SCORERS)
def test_memory_stays_flat_over_ten_thousand_images(name: str, capsys) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.rewards.test_memory", name],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    first, last = found["resident_mib"][0], found["resident_mib"][-1]
    with capsys.disabled():
        per_image = 1000 * found["seconds"] / IMAGES
        print(f"\n{name}: {first:.0f} MiB, then {last:.0f} MiB; {per_image:.2f} ms an image of {SIDE} px")
    assert last - first < FLAT_MIB


if __name__ == "__main__":
    measure(sys.argv[1])
