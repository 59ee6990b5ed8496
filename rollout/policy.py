"""The five verbs behind which a model family hides: packing, sign, time convention, guidance, latent normalisation.

The kernel never knows which model it serves. A new family is one file in `policies/` and one line in its table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from rollout.types import Prompt


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """Encoded prompts, one row each; only the policy that made them knows what the tensors mean."""

    tensors: Mapping[str, Tensor]  # each [n, ...]

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Of a row, by name. Rows that have the same can stand in one batch."""
        return tuple((name, tuple(tensor.shape[1:])) for name, tensor in sorted(self.tensors.items()))

    def take(self, rows: Tensor | Sequence[int]) -> Conditions:
        """The conditions of the given rows, in their order, repeated where a row is."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return Conditions({name: tensor[index.to(tensor.device)] for name, tensor in self.tensors.items()})

    @staticmethod
    def concatenate(parts: Sequence[Conditions]) -> Conditions:
        """All rows of all parts, in order."""
        names = parts[0].tensors.keys()
        return Conditions({name: torch.cat([part.tensors[name] for part in parts]) for name in names})


class Policy(Protocol):
    """A few-step text-to-image model as the process sees it."""

    @property
    def network(self) -> nn.Module:
        """The denoising network: the part that is trained."""
        ...

    @property
    def adapter_targets(self) -> str:
        """A regular expression over module names: the linear layers that LoRA is put on by default."""
        ...

    @property
    def guidance(self) -> float:
        """The scale that `velocity` guides with; 1 = none."""
        ...

    def encode(self, prompts: Sequence[str]) -> Conditions:
        """Encode prompts; one row each, without gradient."""
        ...

    def encode_references(self, paths: Sequence[str]) -> Conditions:
        """One row: the reference images of one prompt, as it names them, without gradient. Its tensors stand beside
        those of `encode`. ValueError where the family reads none.
        """
        ...

    def place_text_encoders(self, device: torch.device | None) -> None:
        """Move the text encoders to a device, where `encode` then works; None gives them up, and `encode` with them."""
        ...

    def initial_latents(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        """Standard normal latents [len(seeds), C, h, w] float32 for an image of height x width pixels, a function of
        the seeds alone, on the network's device.
        """
        ...

    def sigmas(self, num_steps: int, height: int, width: int) -> tuple[float, ...]:
        """The model's own grid for this number of steps and size: num_steps + 1 levels from 1 to 0."""
        ...

    def velocity(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """V = eps - x0 at states x [n, C, h, w] float32 and noise levels sigma [n] float32; float32."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """Images [n, H, W, 3] uint8 on the CPU from clean latents [n, C, h, w] float32."""
        ...

    def preview(self, x0: Tensor) -> Tensor:
        """What `decode` returns, made by the tiny decoder where the policy was given one: images of steps that are not
        the last.
        """
        ...

    def save_trained(self, folder: Path) -> None:
        """Write what was trained (adapter or whole network) into `folder` as stock diffusers loads it."""
        ...

    def load_adapter(self, source: Path) -> None:
        """Start from a saved adapter: copy its tensors into the attached one. ValueError where they do not fit."""
        ...


def conditions_of(policy: Policy, prompt: Prompt) -> Conditions:
    """The prompt's row: its text, and the reference images that it names."""
    text = policy.encode([prompt.text])
    if not prompt.references:
        return text
    return Conditions({**text.tensors, **policy.encode_references(prompt.references).tensors})
