"""What the learner asks of its ranks: sums and votes. One rank is a case, not a different program.

Gradients are summed once per optimizer step as one flat tensor, whatever each rank had to do: uneven work and skipped
pairs cannot make the number of collectives differ, so no rank waits for one that never comes.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks(Protocol):
    """The learner's view of its peers."""

    @property
    def rank(self) -> int:
        """Place among the peers, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many ranks there are."""
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every rank's tensor; equal shapes on all ranks."""
        ...


class Alone:
    """One rank."""

    rank = 0
    size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor


class TorchRanks:
    """Ranks of a torch.distributed process group: gloo on CPUs, NCCL on GPUs."""

    def __init__(self, init_method: str, rank: int, size: int, backend: str, timeout_s: float) -> None:
        dist.init_process_group(
            backend, init_method=init_method, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s)
        )
        self.rank = rank
        self.size = size
        self._device = torch.device("cuda" if backend == "nccl" else "cpu")  # NCCL takes no other

    def sum(self, tensor: Tensor) -> Tensor:
        """All-reduce; raises when a peer does not come within the timeout."""
        total = tensor.to(self._device, copy=True)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()


def all_agree(ranks: Ranks, good: bool) -> bool:
    """Whether every rank says yes; each rank gets the same answer."""
    return bool(ranks.sum(torch.tensor([0.0 if good else 1.0])).item() == 0.0)
