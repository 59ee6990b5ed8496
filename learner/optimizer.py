"""AdamW with a warm-up and a cosine fall, as functions of the update alone, so that a resumed run continues exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSchedule:
    """The learning rate over updates."""

    rate: float
    warmup_updates: int = 10  # linear from rate / warmup_updates
    total_updates: int = 100  # the cosine ends here
    final_share: float = 1.0  # of `rate`, at the end; 1 = constant after the warm-up

    def at(self, update: int) -> float:
        """The rate of the given update, counted from 0."""
        if update < self.warmup_updates:
            return self.rate * (update + 1) / self.warmup_updates
        span = max(self.total_updates - self.warmup_updates, 1)
        fallen = 0.5 - 0.5 * math.cos(math.pi * min((update - self.warmup_updates) / span, 1.0))
        return self.rate * (1.0 - (1.0 - self.final_share) * fallen)


def build_adamw(
    parameters: Iterable[nn.Parameter], weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW whose rate is set before every step from a RateSchedule."""
    return torch.optim.AdamW(list(parameters), lr=0.0, betas=betas, weight_decay=weight_decay, eps=1e-8)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """The optimizer's state as named tensors, `<parameter>/<moment>`, in the order of its parameters; empty before
    its first step.
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{name}/{key}": torch.as_tensor(value).detach().clone()
        for index, name in enumerate(names)
        for key, value in state.get(index, {}).items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]
) -> None:
    """Restore what `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    places = {name: index for index, name in enumerate(names)}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        state.setdefault(places[name], {})[moment] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
