"""`tafs evaluate` and `tafs sample`: a model with or without an adapter, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from rollout.policy import Policy
from rollout.trained import digest_tensors, trained_tensors
from rollout.types import Prompt, WeightsVersion
from services.config import RunConfig
from services.errors import ConfigError
from services.fleet.messages import EvaluationTask
from services.fleet.run.figures import evaluated_temperatures, evaluations
from services.fleet.workers.build import build_policy
from services.fleet.workers.evaluation import draw_steps, evaluate
from services.observe.strips import StripRow, compose_strip


def evaluate_adapter(config: RunConfig, adapter: Path | None) -> None:
    """Print the figures of the run file's evaluation for a saved adapter, or for the base model."""
    if config.evaluation is None:
        raise ConfigError("expected an `evaluation` block in the run file, found none")
    policy = _policy(config, adapter)
    digest = digest_tensors(trained_tensors(policy.network))
    version = WeightsVersion(version=0, update=0, lineage=0, digest=digest)
    temperatures = evaluated_temperatures(config)
    part = evaluate(policy, config, EvaluationTask(version=version, temperatures=temperatures, share=0, shares=1))
    for figure in evaluations(config, part, "after"):
        low, high = figure.interval_95
        typer.echo(
            f"{figure.metric:18} {figure.sampler:8} {figure.value:.3f} [{low:.3f}, {high:.3f}] {figure.images} images"
        )


def sample_strip(config: RunConfig, prompt: str, adapter: Path | None, output: Path, count: int) -> Path:
    """Write a strip of `count` samples of a prompt, all steps, at the serving temperature."""
    policy = _policy(config, adapter, [prompt])
    images = draw_steps(policy, config, Prompt(id="0", text=prompt), 0, count, config.sampling.serving_temperature)
    rows = [StripRow(caption=f"sample {index}", images=steps) for index, steps in enumerate(images)]
    columns = [f"step {step}, sigma {sigma:g}" for step, sigma in enumerate(config.sampling.sigmas[:-1])]
    compose_strip(rows, columns, prompt).save(output)
    return output


def _policy(config: RunConfig, adapter: Path | None, prompts: Sequence[str] | None = None) -> Policy:
    policy = build_policy(config, prompts)
    if adapter is not None:
        try:
            policy.load_adapter(adapter)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return policy
