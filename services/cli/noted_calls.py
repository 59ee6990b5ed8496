"""A network's calls, noted while something makes them, and made again alone: the floor of what was noted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rollout.lora import computes_with_adapter, reference


@dataclass(frozen=True, slots=True, eq=False)
class NotedCall:
    """What the network was called with, and how."""

    arguments: tuple[Any, ...]
    named: dict[str, Any]
    with_gradient: bool
    adapted: bool  # False: within `reference`, or there is no adapter


def noted_calls(network: nn.Module, action: Callable[[], object]) -> tuple[NotedCall, ...]:
    """Every call of the network that the action makes, in order. It is the action's arguments that are kept, on their
    device.
    """
    calls: list[NotedCall] = []

    def note(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.append(NotedCall(arguments, dict(named), torch.is_grad_enabled(), computes_with_adapter(module)))

    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        action()
    finally:
        handle.remove()
    return tuple(calls)


def make_again(network: nn.Module, calls: Sequence[NotedCall]) -> None:
    """The same calls and nothing beside them, those within `reference` first; backward, too, where there was a
    gradient, which is forgotten.
    """
    bare, adapted = ([call for call in calls if call.adapted is kind] for kind in (False, True))
    if bare:
        with reference(network):  # without effect where there never was an adapter
            _make(network, bare)
    _make(network, adapted)
    network.zero_grad()


def _make(network: nn.Module, calls: Sequence[NotedCall]) -> None:
    for call in calls:
        with torch.set_grad_enabled(call.with_gradient):
            made = network(*call.arguments, **call.named)[0]
        if call.with_gradient:
            outputs = [made] if isinstance(made, Tensor) else list(made)
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
