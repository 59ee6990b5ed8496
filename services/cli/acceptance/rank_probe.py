"""One rank of the check of sums: python -m services.cli.acceptance.rank_probe MEETING_FILE BACKEND SIZE RANK.

Prints one JSON object: the digest of the sum, its largest error, and GiB/s of the summed tensor.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from learner.ranks import TorchRanks
from rollout.trained import digest_tensors

NUMBERS = 2**24
REPETITIONS = 5
TIMEOUT_S = 120.0


def main(meeting: str, backend: str, size: int, rank: int) -> None:
    """Sum a tensor that is a function of the rank, and compare with the sum that follows from it."""
    if backend == "nccl":
        torch.cuda.set_device(rank)
    device = torch.device("cuda" if backend == "nccl" else "cpu")
    ranks = TorchRanks(f"file://{meeting}", rank, size, backend, TIMEOUT_S)
    base = torch.arange(NUMBERS, dtype=torch.float32, device=device) / NUMBERS
    total = ranks.sum(base * (rank + 1))
    expected = base * (size * (size + 1) / 2)
    started = time.perf_counter()
    for _ in range(REPETITIONS):
        ranks.sum(base)
    if backend == "nccl":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / REPETITIONS
    found = {
        "digest": digest_tensors({"total": total}),
        "error": float(((total - expected).abs() / expected.clamp(min=1.0)).max()),
        "gib_per_s": round(4 * NUMBERS / 2**30 / seconds, 3),
    }
    ranks.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
