"""The nouns: each stage of the data is a type of its own, frozen from birth.

    Prompt --sample--> RolloutGroup + StepImages --score--> ScoredGroup --update--> WeightsVersion

Letters in shapes: G samples per group, K steps (model calls), T trained transitions, [C, h, w] one latent image,
[H, W] its pixels. No torch at import, so that configuration, queue and command line stay light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rollout.branching import strides

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What one group is drawn for."""

    id: str  # unique in its prompt file
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)  # what rewards may read, e.g. {"target": "42"}
    references: tuple[str, ...] = ()  # paths of reference images, for image-conditioned models


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Everything but the weights that fixes the density of a group's transitions; equal within the group, never
    changed between rollout and update.
    """

    sigmas: tuple[float, ...]  # K + 1 noise levels, 1 = noise, from 1 down to 0
    temperatures: tuple[float, ...]  # K values in [0, 2]; the last has no effect where sigmas end at 0
    height: int  # pixels
    width: int  # pixels
    guidance: float = 1.0  # 1 = none
    kernel: str = "annealed"  # a name of process.KERNELS
    last_step: str = "drop"  # a name of process.LAST_STEPS
    last_std: float = 0.0  # of the noise on clean latents; 0 with drop
    branching: tuple[int, ...] = ()  # see branching.py; () = all samples independent

    @property
    def num_steps(self) -> int:
        """K, the number of model calls."""
        return len(self.sigmas) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsVersion:
    """The name of published weights. `version` is never used twice; `update` counts the learner's progress in the
    surviving lineage; after a rollback to update 50, version 58 may carry update 51.
    """

    version: int
    update: int
    lineage: int  # rises each time the learner goes back to a checkpoint
    digest: str  # sha256 over sorted (name, dtype, shape, bytes) of the trained tensors
    temperatures: tuple[float, ...] = ()  # K, that a controller wants groups of this version drawn with; () = the run's


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectory:
    """The trained transitions of a group's samples: enough to evaluate their density under any weights."""

    transitions: tuple[int, ...]  # which of the K steps these T transitions leave
    states: Tensor  # [G, T, C, h, w] x[k], the state each transition leaves
    actions: Tensor  # [G, T, C, h, w] what the Gaussian drew: x[k+1]
    noise: Tensor  # [G, T, C, h, w] float32 z_k, exact for the stored action: action = mean + std z


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RolloutGroup:
    """G samples of one prompt, drawn by one version of the weights."""

    ordinal: int  # the group's name: its place in the run's order of prompts
    attempt: int  # how often this ordinal has been dispatched before
    prompt: Prompt
    behaviour: Behaviour
    weights: WeightsVersion  # digest computed from the live module that drew the group
    trajectory: Trajectory
    diversity: tuple[float, ...] = ()  # by image: root mean square distance of its latents from the group's mean

    @property
    def num_samples(self) -> int:
        """G, the number of samples in the group."""
        return int(self.trajectory.states.shape[0])

    @property
    def strides(self) -> tuple[int, ...]:
        """How many neighbouring samples share each of the states x[0] .. x[K]; all 1 without branching."""
        return strides(self.behaviour.branching, self.num_samples, self.behaviour.num_steps)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepImages:
    """The decoded one-step predictions of a group: what the rewards see."""

    steps: tuple[int, ...]  # which of the K steps were decoded, rising
    pixels: NDArray[np.uint8]  # [G, len(steps), H, W, 3]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepRewards:
    """One reward's values for a group. An unscored step is masked, never zero."""

    name: str
    range: tuple[float, float]  # the scorer's declared one, lowest first
    values: NDArray[np.float32]  # [G, K] as they were scored; meaningless where not scored
    scored: NDArray[np.bool_]  # [K]

    @property
    def span(self) -> float:
        """Width of the declared range; the advantage's floor is 0.01 of it."""
        return self.range[1] - self.range[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredGroup:
    """A rollout group with all its rewards, finite: the only thing the learner trains on."""

    group: RolloutGroup
    rewards: tuple[StepRewards, ...]
