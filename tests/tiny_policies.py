"""Two policies small enough to reason about: one whose velocity is known exactly, one that can be trained."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rollout.policy import Conditions
from rollout.schedule import uniform_grid
from rollout.seeding import named_seed, normal

SHAPE = (2, 2, 3)
"""One latent image."""


class PointPolicy:
    """The exact flow of data that is one image per prompt: x = (1 - s) image + s eps, so v = (x - image) / s."""

    adapter_targets = ""
    guidance = 1.0
    network = nn.Identity()

    def image(self, prompt: str) -> Tensor:
        return normal([named_seed("image", prompt)], SHAPE)[0]

    def encode(self, prompts: Sequence[str]) -> Conditions:
        return Conditions({"image": torch.stack([self.image(prompt) for prompt in prompts])})

    def initial_latents(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        return normal(seeds, (SHAPE[0], height, width))

    def sigmas(self, num_steps: int, height: int, width: int) -> tuple[float, ...]:
        return uniform_grid(num_steps)

    def velocity(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        return (x - conditions.tensors["image"]) / sigma.view(-1, 1, 1, 1)


class TinyNetwork(nn.Module):
    """Two linear layers on [state, sigma, prompt]."""

    def __init__(self) -> None:
        super().__init__()
        size = SHAPE[0] * SHAPE[1] * SHAPE[2]
        self.inner = nn.Linear(size + 3, 16)
        self.outer = nn.Linear(16, size)

    def forward(self, x: Tensor, sigma: Tensor, prompt: Tensor) -> Tensor:
        inputs = torch.cat([x.flatten(1), sigma[:, None], prompt], dim=1)
        return self.outer(torch.tanh(self.inner(inputs))).view_as(x)


class TinyPolicy:
    """A trainable policy; its weights are a function of the seed."""

    adapter_targets = r"^(inner|outer)$"
    guidance = 1.0

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = TinyNetwork()

    def encode(self, prompts: Sequence[str]) -> Conditions:
        return Conditions({"prompt": normal([named_seed("prompt", prompt) for prompt in prompts], (2,))})

    def initial_latents(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        return normal(seeds, (SHAPE[0], height, width))

    def sigmas(self, num_steps: int, height: int, width: int) -> tuple[float, ...]:
        return uniform_grid(num_steps)

    def velocity(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        return self.network(x, sigma, conditions.tensors["prompt"])
