"""From one-step predictions to the images that rewards see."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rollout.policy import Policy
from rollout.types import StepImages


def decode_steps(
    policy: Policy,
    clean: Tensor,
    steps: Sequence[int],
    batch: int | None = None,
    shared: Sequence[int] | None = None,
) -> StepImages:
    """The images of the given steps, rising, of clean latents [G, K, C, h, w]: the last step's by the pipeline's own
    decoder, the others' by the policy's preview. batch: latents per call; None = all of one kind at once. shared: how
    many neighbouring samples have the same image of each of the K steps, which is decoded once; None = 1 throughout.
    """
    last = clean.shape[1] - 1
    strides = shared or (1,) * clean.shape[1]
    columns: dict[int, Tensor] = {}
    for decode, chosen in ((policy.preview, [step for step in steps if step < last]), (policy.decode, [last])):
        wanted = [step for step in chosen if step in steps]
        if wanted:
            latents = [clean[:: strides[step], step] for step in wanted]
            images = decode_all(decode, torch.cat(latents)[:, None], batch)[:, 0]
            for step, part in zip(wanted, torch.split(images, [len(part) for part in latents]), strict=True):
                columns[step] = part.repeat_interleave(strides[step], dim=0)
    return StepImages(steps=tuple(steps), pixels=torch.stack([columns[step] for step in steps], dim=1).numpy())


def decode_all(decode: Callable[[Tensor], Tensor], clean: Tensor, batch: int | None = None) -> Tensor:
    """[G, n, H, W, 3] uint8 from [G, n, C, h, w], `batch` latents per call."""
    latents = clean.flatten(0, 1)
    images = torch.cat([decode(part) for part in torch.split(latents, batch or len(latents))])
    return images.reshape(*clean.shape[:2], *images.shape[1:])
