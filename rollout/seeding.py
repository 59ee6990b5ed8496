"""Noise as a function of names: the same run seed, ordinal, sample and step give the same numbers on every machine,
whichever worker draws them, however often, in whatever batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

INITIAL = -1
"""The step whose noise is x[0]; step k >= 0 names z_k."""


def environment(step: int) -> int:
    """The name of n_k, the noise between the clean image of step k and the next state in x0-space."""
    return INITIAL - 1 - step


def named_seed(*names: int | str) -> int:
    """A 63-bit seed that is a hash of the names."""
    text = "/".join(str(name) for name in names).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def sample_seeds(run_seed: int, ordinal: int, samples: Sequence[int], step: int) -> list[int]:
    """One seed per sample for the noise of one step of one group."""
    return [named_seed("noise", run_seed, ordinal, sample, step) for sample in samples]


def normal(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise [len(seeds), *shape] float32, drawn on the CPU, one generator per seed.

    numpy's counter-based Philox, since torch's CPU generator takes no more than 32 bits of a seed.
    """
    import torch

    philox = np.random.Philox(key=0)  # keyed anew for each seed: to make one takes longer than to draw from it
    generator, state = np.random.Generator(philox), philox.state
    drawn = np.empty((len(seeds), *shape), dtype=np.float32)
    for seed, numbers in zip(seeds, drawn, strict=True):
        state["state"]["key"][0] = seed
        philox.state = state
        generator.standard_normal(dtype=np.float32, out=numbers)
    return torch.from_numpy(drawn)
