"""From one-step predictions to the images that rewards see."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rollout.policy import Policy
from rollout.types import StepImages


def decode_steps(policy: Policy, clean: Tensor, steps: Sequence[int], batch: int | None = None) -> StepImages:
    """The images of the given steps, rising, of clean latents [G, K, C, h, w]: the last step's by the pipeline's own
    decoder, the others' by the policy's preview. batch: latents per call; None = all of one kind at once.
    """
    last = clean.shape[1] - 1
    early = [step for step in steps if step < last]
    parts = [decode_all(policy.preview, clean[:, early], batch)] if early else []
    if len(early) < len(steps):
        parts.append(decode_all(policy.decode, clean[:, [last]], batch))
    return StepImages(steps=tuple(steps), pixels=torch.cat(parts, dim=1).numpy())


def decode_all(decode: Callable[[Tensor], Tensor], clean: Tensor, batch: int | None = None) -> Tensor:
    """[G, n, H, W, 3] uint8 from [G, n, C, h, w], `batch` latents per call."""
    latents = clean.flatten(0, 1)
    images = torch.cat([decode(part) for part in torch.split(latents, batch or len(latents))])
    return images.reshape(*clean.shape[:2], *images.shape[1:])
