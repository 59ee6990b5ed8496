"""From a validated run file to policy and learner: choices are made here, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from learner.combination import Gate, Weighting
from learner.loss import Objective
from learner.nft import NegativeAware
from learner.optimizer import RateSchedule
from learner.ranks import Ranks
from learner.temperature import SpreadTarget
from learner.update import Learner, LearnerSpec
from rollout.lora import attach_adapter
from rollout.policies.build import PolicySpec, load_policy, pipeline_class
from rollout.policy import Policy
from rollout.prompt_cache import MEMORY_LIMIT, OnceEncodingPolicy, PromptCache, PromptFiles, encoders_digest
from rollout.prompts import load_prompts
from rollout.seeding import named_seed
from rollout.trained import digest_tensors, train_everything, trained_tensors
from services.config import RunConfig
from services.errors import ConfigError
from services.fleet.planning.model_folder import model_folder
from services.model_config import ModelConfig
from services.reward_config import RewardConfig
from services.sampling_config import SamplingConfig, SizeConfig

GRID_TOLERANCE = 1e-3
"""Between a run file's grid and the model's own, written with three digits."""


def use_threads(cpus: float) -> None:
    """Compute with exactly as many threads as the worker was given CPUs: more of them fight over the cores and are
    several times slower.
    """
    torch.set_num_threads(max(1, int(cpus)))


def build_policy(config: RunConfig, prompts: Iterable[str] | None = None) -> Policy:
    """The pipeline folder's policy with its trained tensors attached, the same in every worker. It encodes each prompt
    once. prompts: all that it will be asked to encode, where text encoders are dropped; None = those of the run.
    """
    model = config.model
    folder = model_folder(model)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if model.device == "auto" else model.device
    loaded = load_policy(
        PolicySpec(
            folder=folder,
            dtype=model.dtype,
            device=device,
            guidance=config.sampling.guidance,
            max_sequence_length=model.max_sequence_length,
            encoders_wait=model.text_encoders != "keep",
            tiny_decoder=model.tiny_decoder,
            tiled_decoding=model.tiled_decoding,
            base_adapter=model.base_adapter,
        )
    )
    check_sizes(loaded, config.sampling)
    policy = OnceEncodingPolicy(loaded, _prompt_cache(config, folder), model.text_encoders)
    if model.text_encoders == "drop":
        policy.drop_text_encoders(_texts(config) if prompts is None else prompts)
    if model.lora is None:
        train_everything(policy.network)
        return _arranged(policy, model)
    targets = model.lora.targets or policy.adapter_targets
    attach_adapter(policy.network, targets, model.lora.rank, model.lora.alpha, named_seed("adapter", config.seed))
    if model.init_adapter is not None:
        policy.load_adapter(model.init_adapter)
    return _arranged(policy, model)


def check_policy(config: RunConfig) -> str:
    """A sentence about the policy that `build_policy` would build, from shapes alone: no weights are loaded.

    ConfigError for guidance, sizes, grids, targets and adapters that do not fit the model.
    """
    bare = {"device": "meta", "prompt_cache": None, "text_encoders": "keep", "compile": False}
    try:
        policy = build_policy(config.model_copy(update={"model": config.model.model_copy(update=bare)}))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    latents = " x ".join(map(str, policy.initial_latents([0], config.sampling.height, config.sampling.width).shape[1:]))
    trained = sum(tensor.numel() for tensor in trained_tensors(policy.network).values())
    return f"policy: latents {latents}, {trained:,} trained parameters"


def check_sizes(policy: Policy, sampling: SamplingConfig) -> None:
    """ValueError for a size that the model does not draw, and for one at which its own grid is another where the run
    is on the first size's own: a model that shifts with the size was made to.
    """
    num_steps = len(sampling.sigmas) - 1
    for size in sampling.sizes:
        policy.initial_latents([0], size.height, size.width)
    on_own_grid = len(sampling.sizes) > 1 and _near(_own_grid(policy, num_steps, sampling.sizes[0]), sampling.sigmas)
    for place, size in enumerate(sampling.other_sizes):
        own = _own_grid(policy, num_steps, size)
        if on_own_grid and size.sigmas is None and own is not None and not _near(own, sampling.sigmas):
            raise ValueError(
                f"sampling.other_sizes[{place}]: the model's own grid at {size.height} x {size.width} is "
                f"{[round(sigma, 6) for sigma in own]}, found none of its own there and the first size's in "
                "`sampling.sigmas`; write it as `sigmas`, or the first one's where that is meant"
            )


def _own_grid(policy: Policy, num_steps: int, size: SizeConfig) -> tuple[float, ...] | None:
    try:
        return policy.sigmas(num_steps, size.height, size.width)
    except ValueError:  # the model has none for this number of steps
        return None


def _near(grid: Sequence[float] | None, other: Sequence[float]) -> bool:
    return grid is not None and all(abs(a - b) < GRID_TOLERANCE for a, b in zip(grid, other, strict=True))


def _arranged(policy: Policy, model: ModelConfig) -> Policy:
    """The policy with its network arranged for memory and speed; what it computes stays the same up to rounding."""
    network: Any = policy.network  # diffusers' own class, whose verbs no Module has
    if model.gradient_checkpointing:
        network.enable_gradient_checkpointing()  # without effect where no gradient is asked for
    if model.compile:
        network.compile()  # in place: names of modules and tensors stay
    return policy


def _prompt_cache(config: RunConfig, folder: Path) -> PromptCache:
    model = config.model
    files = None
    if model.prompt_cache is not None:
        versions = [version(package) for package in ("torch", "diffusers", "transformers")]
        guided = config.sampling.guidance > 1.0  # the empty prompt travels with the prompt
        settings = (pipeline_class(folder), model.dtype, model.max_sequence_length, guided, *versions)
        files = PromptFiles(model.prompt_cache, encoders_digest(folder, *settings))
    return PromptCache(files, None if model.text_encoders == "drop" and files is None else MEMORY_LIMIT)


def _texts(config: RunConfig) -> list[str]:
    paths = [config.sampling.prompts, *([] if config.evaluation is None else [config.evaluation.prompts])]
    return [prompt.text for path in paths for prompt in load_prompts(path)]


def build_learner(config: RunConfig, policy: Policy, ranks: Ranks) -> Learner:
    """The learner of one rank."""
    return Learner(policy, learner_spec(config), ranks)


def digests(learner: Learner) -> dict[str, str]:
    """Of everything that changes from update to update, by kind: trained, average, optimizer."""
    return {kind: digest_tensors(tensors) for kind, tensors in learner.tensors().items()}


def learner_spec(config: RunConfig) -> LearnerSpec:
    """The learner's constants from the run file."""
    learning = config.learning
    return LearnerSpec(
        credit=learning.advantage.credit(),
        objective=Objective(
            clip=learning.clip,
            clip_form=learning.clip_form,
            kl_mask=learning.kl_mask,
            step_weight=learning.step_weight,
            ratio=learning.ratio,
            kl_weight=learning.kl_weight,
            kl_form=learning.kl_form,
            drift_max=learning.drift_max,
            correction=learning.correction,
        ),
        nft=None if learning.nft is None else NegativeAware(**learning.nft.model_dump()),
        spread=_spread_target(config.sampling),
        weightings={reward.title: weighting(reward) for reward in config.rewards},
        rates=RateSchedule(
            rate=learning.rate,
            warmup_updates=learning.warmup_updates,
            total_updates=learning.updates,
            final_share=learning.final_rate_share,
        ),
        optimizer_steps=learning.optimizer_steps,
        micro_batch=learning.micro_batch,
        max_grad_norm=learning.max_grad_norm,
        weight_decay=learning.weight_decay,
        betas=learning.betas,
        ema_decay=learning.ema_decay,
        seed=config.seed,
    )


def _spread_target(sampling: SamplingConfig) -> SpreadTarget | None:
    adaptive = sampling.temperature.adaptive
    if adaptive is None:
        return None
    return SpreadTarget(start=sampling.behaviour().temperatures, **adaptive.model_dump())


def weighting(reward: RewardConfig) -> Weighting:
    """How a reward of the run file counts."""
    gate = None if reward.gate is None else Gate(reward=reward.gate.reward, at_least=reward.gate.at_least)
    return Weighting(weights=reward.weights, step_weights=reward.step_weights, gate=gate)
