"""The run file's `sampling.temperature` block: how much of every transition's noise is new."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rollout.schedule import TEMPERATURE_MAX, UPDATE_LAWS, temperatures
from services.block import Block, Positive

Warm = Annotated[float, Field(gt=0.0, le=1.0)]
Temperature = Annotated[float, Field(ge=0.0, le=TEMPERATURE_MAX)]


class OverUpdatesConfig(Block):
    """A factor on every temperature that falls (or rises) while the run learns."""

    law: Literal["linear", "cosine"] = "linear"
    """How the factor goes from 1 to `to`."""
    to: Warm
    """The factor at update `updates` and after it."""
    updates: Positive
    """When it is reached."""

    def factor(self, update: int) -> float:
        """The factor for weights of that update."""
        return 1.0 + (self.to - 1.0) * UPDATE_LAWS[self.law](min(update / self.updates, 1.0))


class AdaptiveConfig(Block):
    """A controller that holds a group's spread after each noisy step near a target, by that step's temperature."""

    of: Literal["reward", "latent"] = "reward"
    """What is held: reward = standard deviation of the rewards within a group in units of their range; latent = root
    mean square distance of the one-step predictions from the group's mean, in units of the latents."""
    target: Annotated[float, Field(gt=0.0)]
    """The spread."""
    gain: Warm = 0.2
    """How far an update goes towards the temperature that its groups imply, in logarithms."""
    minimum: Warm = 0.2
    """The temperature never falls below."""
    maximum: Annotated[float, Field(gt=0.0, le=TEMPERATURE_MAX)] = 1.0
    """Nor rises above."""

    @model_validator(mode="after")
    def _room_to_move(self) -> Self:
        if not self.minimum < self.maximum:
            raise ValueError(f"expected minimum below maximum, found {self.minimum} and {self.maximum}")
        return self


class TemperatureConfig(Block):
    """How much of every transition's noise is new: 0 is the deterministic ODE, 1 renews all of it, more than 1 draws
    more than the flow has there, so that what is learned bears more noise than it will be served with.
    """

    annealing: Literal["constant", "linear", "cosine", "sigma"] = "constant"
    """How the temperature goes from `start` to `end` over the transitions."""
    start: Temperature = 1.0
    """At the first transition."""
    end: Temperature | None = None
    """At the last noisy transition; required unless constant."""
    over_updates: OverUpdatesConfig | None = None
    """A factor that changes from update to update; null = 1 throughout."""
    adaptive: AdaptiveConfig | None = None
    """A controller that starts from the temperatures above; null = they stay."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if (self.annealing == "constant") != (self.end is None):
            raise ValueError("`end` belongs to an annealed temperature, and only to it")
        if self.over_updates is not None and self.adaptive is not None:
            raise ValueError("over_updates and adaptive both set the temperature; remove one of them")
        return self

    def values(self, sigmas: tuple[float, ...], update: int = 0) -> tuple[float, ...]:
        """One temperature per step of the grid, for groups drawn with weights of that update."""
        factor = 1.0 if self.over_updates is None else self.over_updates.factor(update)
        end = self.start if self.end is None else self.end
        return tuple(factor * tau for tau in temperatures(self.annealing, self.start, end, sigmas))

    def extremes(self, sigmas: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
        """Where the temperatures begin, and the furthest that they may go."""
        if self.adaptive is not None:
            steps = len(sigmas) - 1
            bounds = [(self.adaptive.minimum,) * steps, (self.adaptive.maximum,) * steps]
            return (self.values(sigmas), *bounds)
        last = 0 if self.over_updates is None else self.over_updates.updates
        return self.values(sigmas), self.values(sigmas, last)
