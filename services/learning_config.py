"""The run file's `learning` block: how scored groups become new weights."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from learner.advantage import Credit, build_credit
from services.block import Block, Positive, Rate, Share


class AdvantageConfig(Block):
    """What a transition is credited with (learner/advantage.py)."""

    mode: Literal["gain", "gae", "control_variate", "to_go", "next", "terminal", "same_step"] = "gain"
    """Which later rewards, against which baseline. `same_step` is the credit trap, a control."""
    lam: Share = 1.0
    """Of gae: 0 = the next step's gain, 1 = the final image's."""
    gamma: Share = 1.0
    """Of to_go: discount per step."""
    regress_baseline: bool = False
    """Of gae: weigh the baseline r_k by its regression on the final term, estimated on the update's other groups,
    instead of by 1. gain and control_variate always do."""
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
        if self.regress_baseline and self.mode != "gae":
            raise ValueError(f"`regress_baseline` has no effect in mode {self.mode}")
        return self

    def credit(self) -> Credit:
        """The credit it describes."""
        return build_credit(
            self.mode, self.lam, self.gamma, self.terminal_share, self.scale, regress_baseline=self.regress_baseline
        )


class NftConfig(Block):
    """DiffusionNFT (arXiv 2509.16117): final images, noised anew, are moved towards or away from."""

    strength: Rate = 1.0
    """How far the imagined positive and negative policies lie from the old one."""
    advantage_max: Rate = 5.0
    """The normalised advantage at which an image counts as wholly good, and its negative as wholly bad."""


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
    step_weight: Literal["equal_v", "none", "std", "variance", "inverse_time"] = "equal_v"
    """Weight of a transition in the loss: equal_v = std / |J|, equal gradient over steps in v; std = TempFlow-GRPO's;
    variance = std^2; inverse_time = 1 / (sigma - sigma'), GRPO-Guard's."""
    clip: Rate = 0.0256
    """Trust region: with clip_form velocity a root mean square change of v, with constant the ratio's clip times the
    square root of the number of latent dimensions."""
    clip_form: Literal["velocity", "constant"] = "velocity"
    """velocity: the same change of v at every step; constant: the same clip at every step."""
    kl_mask: Rate | None = None
    """Instead of the clip: leave out transitions whose exact KL per dimension is above this and still growing
    (Flow-DPPO); null = clip."""
    ratio: Literal["centred", "plain", "guard"] = "centred"
    """The log ratio: centred has expectation 0 under any drift; plain is Flow-GRPO's; guard is the centred one times
    the step's standard deviation (GRPO-Guard, which also has clip_form constant and step_weight inverse_time)."""
    nft: NftConfig | None = None
    """A DiffusionNFT-style update in the place of the clipped objective; null = the objective."""
    kl_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Of the divergence from the reference (the model without its trained adapter)."""
    kl_form: Literal["velocity", "exact"] = "velocity"
    """In mean squared v, or the transitions' exact KL."""
    drift_max: Rate = 0.5
    """Pairs whose mean moved by more standard deviations since they were drawn are dropped, and counted."""
    correction: bool = True
    """Off-policy groups are weighted by the truncated behaviour-to-anchor ratio and dropped beyond drift_max; false is
    a control for studies of staleness."""
    checkpoint_every: Positive = 25
    """Updates between checkpoints; the last update always has one."""
    keep_checkpoints: Positive = 2
    """Older ones are deleted."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.kl_form != "velocity" and self.kl_weight == 0.0:
            raise ValueError("`kl_form` has no effect with kl_weight 0")
        if self.kl_mask is not None and (self.clip != _default("clip") or self.clip_form != _default("clip_form")):
            raise ValueError("`clip` and `clip_form` have no effect with a kl_mask")
        if self.nft is not None:
            self._check_nft()
        return self

    def _check_nft(self) -> None:
        idle = ("step_weight", "clip", "clip_form", "kl_mask", "ratio", "kl_weight", "drift_max", "correction")
        changed = [name for name in idle if getattr(self, name) != _default(name)]
        if changed:
            raise ValueError(f"`{changed[0]}` has no effect with nft")
        if self.advantage.mode != "terminal":
            raise ValueError("nft learns from final images: expected advantage.mode terminal")


def _default(name: str) -> object:
    return LearningConfig.model_fields[name].default
