"""The run file: five blocks (model, sampling, rewards, learning, fleet) and what is evaluated.

Everything is validated before anything starts, without torch. An unknown key names its path and the nearest valid
one; a setting without effect is an error. Relative paths are relative to the folder that `tafs` is called in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from learner.advantage import build_credit, steps_read
from rollout.kernel import build_process, trained_transitions
from rollout.schedule import check_grid, temperatures
from rollout.types import Behaviour

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0)]


class Block(BaseModel):
    """Part of a run file: frozen, no unknown keys, documented fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class LoraConfig(Block):
    """A low-rank adapter on the denoising network."""

    rank: Positive = 32
    """Rank of the update of every targeted layer."""
    alpha: Rate = 64.0
    """Scale: the update is multiplied by alpha / rank."""
    targets: str | None = None
    """Regular expression over module names; None = every linear layer that the model family recommends."""


class ModelConfig(Block):
    """The pipeline that is aligned."""

    path: Path
    """A diffusers pipeline folder (its model_index.json chooses the family)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the network; the kernel is float32 always."""
    device: str = "auto"
    """auto = cuda where there is one, else cpu; or a torch device."""
    max_sequence_length: Positive = 256
    """Text tokens, as in a call of the stock pipeline (for SD3 those of T5, or of the zeros in its place); the same
    when serving."""
    lora: LoraConfig | None = LoraConfig()
    """What is trained; null = all weights."""
    base_adapter: Path | None = None
    """A frozen adapter under the trained one (a file or its folder), on in the reference too: a few-step distillation,
    say. The model's folder then holds that adapter's scheduler."""
    init_adapter: Path | None = None
    """Start from this saved adapter (a file or its folder); it must have the shape of `lora`."""

    @model_validator(mode="after")
    def _adapter_has_a_place(self) -> Self:
        if self.init_adapter is not None and self.lora is None:
            raise ValueError("init_adapter has no effect with `lora: null`; remove one of them")
        if self.base_adapter is not None and self.lora is None:
            raise ValueError("a base_adapter stays under a trained adapter; with `lora: null` merge it into the model")
        return self


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
    temperature: TemperatureConfig = TemperatureConfig()
    """Of the rollouts."""
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
        trained_transitions(build_process(self.sigmas, self.temperature.values(self.sigmas)))
        return self

    def behaviour(self) -> Behaviour:
        """The rollouts' behaviour."""
        return self._behaviour(self.temperature.values(self.sigmas))

    def constant_behaviour(self, temperature: float) -> Behaviour:
        """The same grid at one temperature throughout."""
        return self._behaviour((temperature,) * (len(self.sigmas) - 1))

    def _behaviour(self, taus: tuple[float, ...]) -> Behaviour:
        return Behaviour(
            sigmas=self.sigmas, temperatures=taus, height=self.height, width=self.width, guidance=self.guidance
        )


class RewardConfig(Block):
    """One reward."""

    use: str
    """A built-in reward's name, or `package.module:function` of your own."""
    weight: float = 1.0
    """Share in the sum of advantages, after each reward was normalised by itself; negative = a penalty."""
    options: dict[str, Any] = {}
    """Passed to the reward when it is built."""


class AdvantageConfig(Block):
    """What a transition is credited with (learner/advantage.py)."""

    mode: Literal["gae", "control_variate", "to_go", "next", "terminal", "same_step"] = "control_variate"
    """Which later rewards, against which baseline. `same_step` is the credit trap, a control."""
    lam: Share = 1.0
    """Of gae: 0 = the next step's gain, 1 = the final image's."""
    gamma: Share = 1.0
    """Of to_go: discount per step."""
    terminal_share: Share = 0.0
    """Share of the normalised final reward mixed into the step-aware advantage."""
    scale: Literal["group", "batch", "none"] = "group"
    """Over what the divisor's standard deviation is taken."""
    shuffle_rewards: bool = False
    """A control that must learn nothing: each group's rewards are permuted over its samples."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.lam != 1.0 and self.mode != "gae":
            raise ValueError(f"`lam` has no effect in mode {self.mode}")
        if self.gamma != 1.0 and self.mode != "to_go":
            raise ValueError(f"`gamma` has no effect in mode {self.mode}")
        return self


class LearningConfig(Block):
    """How scored groups become new weights."""

    updates: Positive
    """Updates of the whole run; each ends in one weights version."""
    groups_per_update: Positive = 16
    """Prompts per update."""
    advantage: AdvantageConfig = AdvantageConfig()
    """Credit."""
    rate: Rate = 4e-4
    """Peak learning rate of AdamW."""
    warmup_updates: Annotated[int, Field(ge=0)] = 10
    """Linear warm-up."""
    final_rate_share: Share = 0.1
    """The rate falls along a cosine to this share at the last update; 1 = no fall."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Of AdamW."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    max_grad_norm: Rate = 1.0
    """Gradients are scaled down to this norm."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Of the average that is evaluated and saved; 0 = the last weights themselves."""
    optimizer_steps: Positive = 1
    """Per update, each on an equal share of the pairs. With one step on fresh groups no clip ever acts."""
    micro_batch: Positive = 48
    """Pairs per network call."""
    step_weight: Literal["equal_v", "none", "std", "variance"] = "equal_v"
    """Weight of a transition in the loss: equal_v = std / |J|, equal gradient over steps in v."""
    clip: Rate = 0.0256
    """Trust region as a root mean square change of v."""
    ratio: Literal["centred", "plain"] = "centred"
    """The log ratio: centred has expectation 0 under any drift; plain is Flow-GRPO's."""
    kl_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Of the divergence from the reference (the model without its trained adapter)."""
    kl_form: Literal["velocity", "exact"] = "velocity"
    """In mean squared v, or the transitions' exact KL."""
    drift_max: Rate = 0.5
    """Pairs whose mean moved by more standard deviations since they were drawn are dropped, and counted."""
    checkpoint_every: Positive = 25
    """Updates between checkpoints; the last update always has one."""
    keep_checkpoints: Positive = 2
    """Older ones are deleted."""

    @model_validator(mode="after")
    def _credit_can_be_built(self) -> Self:
        a = self.advantage
        build_credit(a.mode, a.lam, a.gamma, a.terminal_share, a.scale)
        if self.kl_form != "velocity" and self.kl_weight == 0.0:
            raise ValueError("`kl_form` has no effect with kl_weight 0")
        return self


class RoleConfig(Block):
    """The workers of one role."""

    workers: Positive = 1
    """How many."""
    cpus: Rate = 1.0
    """Logical CPUs of each; a worker computes with max(1, floor(cpus)) threads."""
    gpus: Annotated[float, Field(ge=0.0)] = 0.0
    """GPUs of each; fractions share one."""


class FleetConfig(Block):
    """Where and how the run is executed."""

    max_staleness: Annotated[int, Field(ge=0)] = 1
    """How many updates a group's weights may lie behind; 0 = synchronous, and then deterministic."""
    rollout: RoleConfig = RoleConfig()
    """Workers that draw groups."""
    reward: RoleConfig = RoleConfig()
    """Workers that score them."""
    learner: RoleConfig = RoleConfig()
    """Ranks that train; `workers` is their number."""
    merge_adapter: bool = True
    """Rollouts fold the adapter into the weights: faster, float32 only; the ratio guard watches the rounding."""
    redis: str | None = None
    """URL of a Redis or Valkey server (7.0 or later); null = a private one, started here for the run."""
    blobs: str = "redis://"
    """Where payloads travel: redis:// beside the queue, or an fsspec URL of a shared folder."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Prometheus endpoint of the run; 0 = any free port."""
    metrics_host: str = "127.0.0.1"
    """Interface of the endpoint."""
    stall_timeout_s: Rate = 300.0
    """No progress for this long ends the run with stacks of all workers and exit code 75."""


class EvaluationConfig(Block):
    """What is measured before and after, on prompts that are not trained on, with the same seeds."""

    prompts: Path
    """JSON lines like `sampling.prompts`; metadata key `target` holds the text to read."""
    images: Positive = 1080
    """Per figure, spread evenly over the prompts. 100 images carry a standard error of 0.05."""
    strip_prompts: Positive = 6
    """Prompts shown in image strips."""
    strips_every: Positive = 25
    """Updates between image strips; the first and the last always have one."""


class RunConfig(Block):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the run folder and its keys in Redis; the same name goes on where it stopped."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of all noise, the order of prompts and the adapter's start."""
    runs: Path = Path("runs")
    """Parent of the run folder."""
    model: ModelConfig
    sampling: SamplingConfig
    rewards: Annotated[tuple[RewardConfig, ...], Field(min_length=1)]
    learning: LearningConfig
    fleet: FleetConfig = FleetConfig()
    evaluation: EvaluationConfig | None = None
    """null = no figures and no strips."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.learning.kl_weight > 0.0 and self.model.lora is None:
            raise ValueError("learning.kl_weight > 0 needs model.lora: without an adapter there is no reference")
        if self.fleet.merge_adapter and (self.model.lora is None or self.model.dtype != "float32"):
            raise ValueError("fleet.merge_adapter needs model.lora and model.dtype float32; set it to false")
        names = [reward.use for reward in self.rewards]
        if len(set(names)) != len(names):
            raise ValueError(f"rewards: expected each reward once, found {names}")
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.runs / self.name

    def steps_scored(self) -> tuple[int, ...]:
        """The steps whose images the advantage reads; the others are neither decoded nor scored."""
        a = self.learning.advantage
        credit = build_credit(a.mode, a.lam, a.gamma, a.terminal_share, a.scale)
        behaviour = self.sampling.behaviour()
        process = build_process(behaviour.sigmas, behaviour.temperatures)
        return steps_read(credit, behaviour.num_steps, trained_transitions(process))
