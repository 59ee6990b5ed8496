"""The run file's `sampling` block: how groups are drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rollout.branching import strides
from rollout.kernel import trained_transitions
from rollout.process import process_of
from rollout.schedule import check_grid
from rollout.seeding import named_seed
from rollout.types import Behaviour, WeightsVersion
from services.block import Block, Positive, Rate, Share
from services.temperature_config import TemperatureConfig


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
    other_sigmas: tuple[tuple[float, ...], ...] = ()
    """Further grids, so that one adapter serves several numbers of steps: each group is drawn on one of all grids,
    which one follows from its ordinal. Evaluation and serving are on `sigmas`."""
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
    branching: tuple[Positive, ...] = ()
    """Samples that share prefixes: how many initial noises a group has, how many continuations of each the first
    transition draws, how many of each of those the second, and so on; the product is samples_per_group. [4, 1, 3]: 4
    states, and of each 3 continuations after its second network call. Empty = independent samples."""
    guidance: Annotated[float, Field(ge=1.0)] = 1.0
    """Guidance scale, the same in rollout and update; 1 = none. Classifier-free with two model calls per step, but an
    input of the network where it was distilled to take one (FLUX.1-dev was released with 3.5, SANA-Sprint with 4.5)."""

    @model_validator(mode="after")
    def _process_can_be_trained(self) -> Self:
        if (self.last_step == "drop") != (self.last_std is None):
            raise ValueError("`last_std` belongs to last_step floor and x0, and only to them")
        if self.last_step == "x0" and self.kernel != "annealed":
            raise ValueError(f"kernel {self.kernel} has no effect with last_step x0; remove one of them")
        if self.temperature.adaptive is not None and self.other_sigmas:
            raise ValueError("an adaptive temperature belongs to one grid; remove it or `other_sigmas`")
        for sigmas in self.grids:
            check_grid(sigmas)
            for taus in self.temperature.extremes(sigmas):
                self._check_branching(trained_transitions(process_of(self._rollout(sigmas, taus))), len(sigmas) - 1)
        return self

    def _check_branching(self, trained: tuple[int, ...], num_steps: int) -> None:
        strides(self.branching, self.samples_per_group, num_steps)
        for step, width in enumerate(self.branching[1:]):
            if width > 1 and step not in trained:
                raise ValueError(
                    f"`branching` has {width} continuations of transition {step}, which draws no noise with "
                    f"{num_steps} steps: they would be equal; expected 1 there"
                )

    @property
    def grids(self) -> tuple[tuple[float, ...], ...]:
        """All grids that groups are drawn on."""
        return (self.sigmas, *self.other_sigmas)

    def behaviour(self) -> Behaviour:
        """That of the first groups on `sigmas`."""
        return self._rollout(self.sigmas, self.temperature.values(self.sigmas))

    def behaviours(self) -> tuple[Behaviour, ...]:
        """Those of the first groups on each grid."""
        return tuple(self._rollout(sigmas, self.temperature.values(sigmas)) for sigmas in self.grids)

    def behaviour_of(self, ordinal: int, weights: WeightsVersion, seed: int) -> Behaviour:
        """That of a group: its grid follows from its ordinal, its temperatures from the weights that draw it."""
        sigmas = self.grids[named_seed("grid", seed, ordinal) % len(self.grids)]
        return self._rollout(sigmas, weights.temperatures or self.temperature.values(sigmas, weights.update))

    def _rollout(self, sigmas: tuple[float, ...], taus: tuple[float, ...]) -> Behaviour:
        return replace(
            self._behaviour(sigmas, taus),
            kernel=self.kernel,
            last_step=self.last_step,
            last_std=self.last_std or 0.0,
            branching=self.branching,
        )

    def constant_behaviour(self, temperature: float) -> Behaviour:
        """The sampler that serves: the same grid and the annealed kernel at one temperature throughout."""
        return self._behaviour(self.sigmas, (temperature,) * (len(self.sigmas) - 1))

    def _behaviour(self, sigmas: tuple[float, ...], taus: tuple[float, ...]) -> Behaviour:
        return Behaviour(sigmas=sigmas, temperatures=taus, height=self.height, width=self.width, guidance=self.guidance)
