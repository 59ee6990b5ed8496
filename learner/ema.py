"""An exponential moving average of the trained tensors: what is evaluated and served at the end."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Average:
    """mean <- d mean + (1 - d) live, with d = min(decay, (1 + n) / (10 + n)) at the n-th update, so that the first
    updates are not held back by the start. decay 0 keeps the mean equal to the live tensors.
    """

    def __init__(self, live: Mapping[str, Tensor], decay: float) -> None:
        self._decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in live.items()}

    @torch.no_grad()
    def follow(self, live: Mapping[str, Tensor], updates_done: int) -> None:
        """Take one update into the mean."""
        decay = min(self._decay, (1.0 + updates_done) / (10.0 + updates_done))
        for name, mean in self.tensors.items():
            mean.lerp_(live[name].detach(), 1.0 - decay)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        for name, mean in self.tensors.items():
            mean.copy_(tensors[name])
