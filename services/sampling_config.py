"""The run file's `sampling` block: how groups are drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rollout.kernel import trained_transitions
from rollout.process import process_of
from rollout.schedule import check_grid, temperatures
from rollout.types import Behaviour
from services.block import Block, Positive, Rate, Share


class TemperatureConfig(Block):
    """How much of every transition's noise is new: 0 is the deterministic ODE, 1 renews all of it."""

    annealing: Literal["constant", "linear", "cosine", "sigma"] = "constant"
    """How the temperature goes from `start` to `end` over the transitions."""
    start: Share = 1.0
    """At the first transition."""
    end: Share | None = None
    """At the last noisy transition; required unless constant."""

    @model_validator(mode="after")
    def _end_where_it_matters(self) -> Self:
        if (self.annealing == "constant") != (self.end is None):
            raise ValueError("`end` belongs to an annealed temperature, and only to it")
        return self

    def values(self, sigmas: tuple[float, ...]) -> tuple[float, ...]:
        """One temperature per step of the grid."""
        return temperatures(self.annealing, self.start, self.start if self.end is None else self.end, sigmas)


class SamplingConfig(Block):
    """How groups are drawn."""

    prompts: Path
    """JSON lines, one prompt each: {"text": ..., "metadata": {...}}."""
    height: Positive
    """Pixels."""
    width: Positive
    """Pixels."""
    sigmas: tuple[float, ...]
    """The grid, from 1 down to 0: one more number than there are steps. `tafs inspect` shows a model's own."""
    kernel: Literal["annealed", "flow_sde", "dance_sde", "flow_cps"] = "annealed"
    """How rollouts are noised: annealed = TAFS; flow_sde = Flow-GRPO, whose noise level is the temperature (0.7 there);
    dance_sde = DanceGRPO, whose eta it is (0.3 there); flow_cps = Coefficients-Preserving Sampling, whose eta it is."""
    temperature: TemperatureConfig = TemperatureConfig()
    """Of the rollouts."""
    last_step: Literal["drop", "floor", "x0"] = "drop"
    """Which noise the step into sigma 0 draws: drop = none, it is not trained; floor = `last_std` on the final image;
    x0 = every step draws its clean image with noise of `last_std` times its temperature, so that all steps are trained,
    a single one too."""
    last_std: Rate | None = None
    """Of floor and x0, in units of the latents; required there."""
    serving_temperature: Share = 1.0
    """Constant temperature of the sampler that will serve the model; evaluation reports it first."""
    samples_per_group: Annotated[int, Field(ge=2)] = 12
    """G, images per prompt; advantages are relative to the group."""
    guidance: Annotated[float, Field(ge=1.0)] = 1.0
    """Guidance scale, the same in rollout and update; 1 = none. Classifier-free with two model calls per step, but an
    input of the network where it was distilled to take one (FLUX.1-dev was released with 3.5, SANA-Sprint with 4.5)."""

    @model_validator(mode="after")
    def _process_can_be_trained(self) -> Self:
        check_grid(self.sigmas)
        if (self.last_step == "drop") != (self.last_std is None):
            raise ValueError("`last_std` belongs to last_step floor and x0, and only to them")
        if self.last_step == "x0" and self.kernel != "annealed":
            raise ValueError(f"kernel {self.kernel} has no effect with last_step x0; remove one of them")
        trained_transitions(process_of(self.behaviour()))
        return self

    def behaviour(self) -> Behaviour:
        """The rollouts' behaviour."""
        return replace(
            self._behaviour(self.temperature.values(self.sigmas)),
            kernel=self.kernel,
            last_step=self.last_step,
            last_std=self.last_std or 0.0,
        )

    def constant_behaviour(self, temperature: float) -> Behaviour:
        """The sampler that serves: the same grid and the annealed kernel at one temperature throughout."""
        return self._behaviour((temperature,) * (len(self.sigmas) - 1))

    def _behaviour(self, taus: tuple[float, ...]) -> Behaviour:
        return Behaviour(
            sigmas=self.sigmas, temperatures=taus, height=self.height, width=self.width, guidance=self.guidance
        )
