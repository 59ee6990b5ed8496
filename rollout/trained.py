"""The tensors that training changes: what is optimized, published, digested and checkpointed.

They are exactly the network's parameters with `requires_grad`, under their module names: an adapter's matrices after
`lora.attach_adapter`, or everything after `train_everything`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def train_everything(network: nn.Module) -> None:
    """Full fine-tuning: every parameter is trained."""
    network.requires_grad_(True)


def trained_tensors(network: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters by name, sorted by name."""
    return dict(sorted((name, p) for name, p in network.named_parameters() if p.requires_grad))


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over sorted (name, dtype, shape, bytes); equal for equal tensors on every machine."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


@torch.no_grad()
def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the network's trained parameters. ValueError, before anything is written, where names or
    shapes differ.
    """
    live = trained_tensors(network)
    if live.keys() != tensors.keys():
        odd = sorted(live.keys() ^ tensors.keys())
        raise ValueError(f"weights do not fit: expected {len(live)} tensors, found {len(tensors)}; first odd: {odd[0]}")
    for name, parameter in live.items():
        if parameter.shape != tensors[name].shape:
            raise ValueError(
                f"weights do not fit: {name} is {tuple(parameter.shape)}, found {tuple(tensors[name].shape)}"
            )
    for name, parameter in live.items():
        parameter.copy_(tensors[name])
