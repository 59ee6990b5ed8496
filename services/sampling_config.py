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


class SizeConfig(Block):
    """A further size of images."""

    height: Positive
    """Pixels."""
    width: Positive
    """Pixels."""
    share: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Of the groups, in the long run; the first size has what all others leave."""
    sigmas: tuple[float, ...] | None = None
    """The grid at this size, where the model's own depends on it (`tafs inspect` shows it); null = as at the first."""


class SamplingConfig(Block):
    """How groups are drawn."""

    prompts: Path
    """JSON lines, one prompt each: {"text": ..., "metadata": {...}}."""
    height: Positive
    """Pixels."""
    width: Positive
    """Pixels."""
    other_sizes: tuple[SizeConfig, ...] = ()
    """Further sizes, so that one adapter serves several: each group is of one, which one follows from its ordinal.
    Evaluation, strips and serving are of height x width."""
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
        self._check_sizes()
        for sigmas in (*self.grids, *(size.sigmas for size in self.other_sizes if size.sigmas is not None)):
            check_grid(sigmas)
            for taus in self.temperature.extremes(sigmas):
                self._check_branching(
                    trained_transitions(process_of(self._rollout(sigmas, taus, self.sizes[0]))), len(sigmas) - 1
                )
        return self

    def _check_sizes(self) -> None:
        sizes = [(size.height, size.width) for size in self.sizes]
        if len(set(sizes)) < len(sizes):
            raise ValueError(f"`other_sizes`: expected each size once, the first one left out, found {sizes}")
        if sum(size.share for size in self.other_sizes) >= 1.0:
            raise ValueError("`other_sizes`: expected shares that leave something for the first size, found 1 or more")
        own = any(size.sigmas is not None for size in self.other_sizes)
        if own and self.other_sigmas:
            raise ValueError(
                "`other_sizes` have `sigmas` of their own, and there are `other_sigmas`; remove one of them"
            )
        if own and self.temperature.adaptive is not None:
            raise ValueError("an adaptive temperature belongs to one grid; remove it or the sizes' own `sigmas`")

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
        """All grids that groups of the first size are drawn on."""
        return (self.sigmas, *self.other_sigmas)

    @property
    def sizes(self) -> tuple[SizeConfig, ...]:
        """All sizes, the first one first."""
        first = 1.0 - sum(size.share for size in self.other_sizes)
        return (SizeConfig.model_construct(height=self.height, width=self.width, share=first), *self.other_sizes)

    def behaviour(self) -> Behaviour:
        """That of the first groups of the first size on `sigmas`."""
        return self.behaviours()[0]

    def behaviours(self) -> tuple[Behaviour, ...]:
        """Those of the first groups of each size on each of its grids."""
        return tuple(
            self._rollout(sigmas, self.temperature.values(sigmas), size)
            for size in self.sizes
            for sigmas in self._grids_of(size)
        )

    def behaviour_of(self, ordinal: int, weights: WeightsVersion, seed: int) -> Behaviour:
        """That of a group: size and grid follow from its ordinal, temperatures from the weights that draw it."""
        size = self._size_of(ordinal, seed)
        grids = self._grids_of(size)
        sigmas = grids[named_seed("grid", seed, ordinal) % len(grids)]
        return self._rollout(sigmas, weights.temperatures or self.temperature.values(sigmas, weights.update), size)

    def _size_of(self, ordinal: int, seed: int) -> SizeConfig:
        place = named_seed("size", seed, ordinal) / 2**63  # in [0, 1)
        for size in self.other_sizes:
            if place < size.share:
                return size
            place -= size.share
        return self.sizes[0]

    def _grids_of(self, size: SizeConfig) -> tuple[tuple[float, ...], ...]:
        return self.grids if size.sigmas is None else (size.sigmas,)

    def _rollout(self, sigmas: tuple[float, ...], taus: tuple[float, ...], size: SizeConfig) -> Behaviour:
        return replace(
            self._behaviour(sigmas, taus),
            height=size.height,
            width=size.width,
            kernel=self.kernel,
            last_step=self.last_step,
            last_std=self.last_std or 0.0,
            branching=self.branching,
        )

    def constant_behaviour(self, temperature: float) -> Behaviour:
        """The sampler that serves: the first size and grid, and the annealed kernel at one temperature throughout."""
        return self._behaviour(self.sigmas, (temperature,) * (len(self.sigmas) - 1))

    def _behaviour(self, sigmas: tuple[float, ...], taus: tuple[float, ...]) -> Behaviour:
        return Behaviour(sigmas=sigmas, temperatures=taus, height=self.height, width=self.width, guidance=self.guidance)
