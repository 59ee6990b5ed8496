"""What can be said about a pipeline folder before a run file is written for it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from rollout.lora import attach_adapter
from rollout.policies.build import PolicySpec, load_policy, pipeline_class
from rollout.policies.hub import local_folder
from rollout.policies.serving import stock_arguments, takes_guidance
from rollout.policy import Policy
from rollout.trained import trained_tensors
from services.errors import ConfigError

BYTES = {"float32": 4, "bfloat16": 2}
"""Of one parameter, in the dtypes that `model.dtype` offers."""
TRAINED_BYTES = 16
"""Of one trained parameter: value, gradient and AdamW's two moments, all float32."""
GIB = 2**30


def inspect_model(model: Path, num_steps: int, height: int, width: int, rank: int) -> Iterator[str]:
    """Lines about family, guidance, latents, native grid, parameters, memory and adapter of a pipeline folder, or of
    the newest commit of `hub:owner/name`. No weights are loaded. ConfigError for a folder, a size or a number of steps
    that the family does not know.
    """
    try:
        folder = local_folder(model, None, offline=False)
        if folder != model:
            yield f"commit      {folder.name}, for `model.revision`"
        family = pipeline_class(folder)
        policy = load_policy(PolicySpec(folder=folder, device="meta"))
        latents = tuple(policy.initial_latents([0], height, width).shape[1:])
        sigmas = policy.sigmas(num_steps, height, width)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    arguments = ", ".join(f"{name}={value!r}" for name, value in stock_arguments(folder, num_steps, 1.0).items())
    yield f"family      {family}; unguided, stock is called with {arguments}"
    yield f"guidance    {_guidance(folder)}"
    shape = " x ".join(map(str, latents))
    yield f"latents     {shape} ({math.prod(latents):,} dimensions) for {width} x {height} pixels"
    yield f"schedule    {num_steps} steps: [{', '.join(f'{sigma:.6g}' for sigma in sigmas)}]"
    yield from _parameter_lines(folder)
    yield from _adapter_lines(policy, rank)


def _guidance(folder: Path) -> str:
    """What `sampling.guidance` does."""
    if takes_guidance(folder):
        return "an input of the network, at the scale of its stock pipeline's calls"
    try:
        load_policy(PolicySpec(folder=folder, device="meta", guidance=2.0))
    except ValueError:
        return "none, for it is distilled"
    return "classifier-free above 1, at twice the work"


def _parameter_lines(folder: Path) -> Iterator[str]:
    """Per component, read from the files' headers."""
    for part in sorted({file.parent for file in folder.glob("*/*.safetensors")}):
        number = sum(map(_count, part.glob("*.safetensors")))
        memory = ", ".join(f"{dtype} {number * size / GIB:.3g} GiB" for dtype, size in BYTES.items())
        yield f"parameters  {part.name}: {number:,} ({memory})"


def _count(file: Path) -> int:
    with safe_open(file, "np") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118


def _adapter_lines(policy: Policy, rank: int) -> Iterator[str]:
    yield f"targets     {policy.adapter_targets}"
    attach_adapter(policy.network, policy.adapter_targets, rank, float(rank), seed=0)
    trained = trained_tensors(policy.network)
    layers = Counter(re.sub(r"\.\d+\.", ".N.", name, count=1) for name in {n.partition(".lora_")[0] for n in trained})
    for name, number in sorted(layers.items()):
        yield f"            {number:>3} x {name}"
    total = sum(tensor.numel() for tensor in trained.values())
    yield (
        f"adapter     rank {rank}: {total:,} parameters on {sum(layers.values())} layers, "
        f"{total * TRAINED_BYTES / GIB:.3g} GiB with gradients and optimizer"
    )
