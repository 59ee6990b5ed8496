"""How much GPU memory each role of a run would take, by formulas that are stated beside the figures. No torch.

Sizes are read from the headers of the model folder's files; nothing is loaded. The formulas err on the large side and
leave out what no file tells: the CUDA context (about 0.5 GiB a process), fragmentation, and rewards that come from a
hub or are a user's own functions.

    network, encoders, decoder   parameters x bytes of model.dtype; rollouts that merge keep the adapted weights twice
    adapter                      rank x (in + out) of the adapted layers; each 24 bytes where it is trained: value,
                                 gradient and its sum over ranks, AdamW's two moments, the average; 4 in a rollout
    activations, learning        micro_batch x 100 s h L bytes in bfloat16 (s tokens, h width, L blocks), twice that in
                                 float32; with gradient_checkpointing the inputs of the blocks, 2 s h L, and one block
    activations, sampling        samples_per_group x 30 s h: nothing is kept for a gradient; with classifier-free
                                 guidance both count twice
    states                       3 float32 latents (state, action, noise) for each trained transition of each sample
    decoding                     images of one call x 4 feature maps of the image's size in the decoder's second width

The 100 is measured, not derived: what autograd keeps of the real FLUX.1 and SD3.5-medium networks with float32 adapters
is 63 and 96 bytes for each of s h L (tests/services/fleet/planning/test_memory.py counts it), more than the 34 that
Korthikanti et al. (arXiv 2205.05198) derive, because adapters keep their inputs in float32.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.advantage import steps_read
from rollout.kernel import trained_transitions
from rollout.process import first_image_after, num_images, process_of
from services.config import RunConfig

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
BLOCK_BYTES = 100
SAMPLING_BYTES = 30
TRAINED_BYTES = 24
NETWORK = "transformer"


@dataclass(frozen=True, slots=True)
class Part:
    """One line of a role's memory."""

    name: str
    size_bytes: int
    formula: str


@dataclass(frozen=True, slots=True)
class Shape:
    """What the formulas need to know of a pipeline."""

    parameters: Mapping[str, int]  # by component
    matrices: Mapping[str, tuple[int, int]]  # (out, in) of the network's linear layers by module name
    tokens: int  # image and text, of one sample
    width: int
    blocks: int
    latent: int  # numbers in one sample's latents
    decoder_width: int  # channels of the decoder's widest feature map at the image's size
    takes_guidance: bool  # as an input; the others are called with and without the prompt where there is guidance


def memory_plan(config: RunConfig, folder: Path) -> dict[str, tuple[Part, ...]]:
    """The parts by role, largest first. folder: the model's, on this machine. ValueError where it lacks what the
    formulas need.
    """
    tokens = _text_tokens(folder, config.model.max_sequence_length)
    largest = max(config.sampling.sizes, key=lambda size: size.height * size.width)
    shape = read_shape(folder, largest.height, largest.width, tokens)
    return {
        "learner": _sorted(_learner(config, shape)),
        "rollout": _sorted(_rollout(config, shape)),
        "reward": _sorted(_reward(config)),
    }


def read_shape(folder: Path, height: int, width: int, text_tokens: int) -> Shape:
    """From the folder's configurations and file headers, for an image of height x width pixels."""
    components = sorted({file.parent.name for file in folder.glob("*/*.safetensors")})
    sizes = {name: dict(_tensors(folder / name)) for name in components}
    network = _json(folder / NETWORK / "config.json")
    decoder = _json(folder / "vae" / "config.json")
    widths, reduction = _decoder_widths(decoder)
    own_patch = network["_class_name"].startswith(("Sana", "SD3"))  # the others are given packed 2 x 2 patches
    patch = int(network["patch_size"]) if own_patch else 2
    latent_channels = int(decoder.get("latent_channels") or decoder.get("z_dim") or 0)
    heads = int(network.get("num_attention_heads") or network.get("n_heads") or 0)
    return Shape(
        parameters={name: sum(map(math.prod, tensors.values())) for name, tensors in sizes.items()},
        matrices={
            name.removesuffix(".weight"): (shape[0], shape[1])
            for name, shape in sizes.get(NETWORK, {}).items()
            if len(shape) == 2 and name.endswith(".weight")
        },
        tokens=(height // reduction // patch) * (width // reduction // patch) + text_tokens,
        width=int(network.get("dim") or heads * int(network.get("attention_head_dim") or 0)),
        blocks=sum(int(network.get(key) or 0) for key in ("num_layers", "num_single_layers", "n_layers")),
        latent=latent_channels * (height // reduction) * (width // reduction),
        decoder_width=widths[min(1, len(widths) - 1)],
        takes_guidance=bool(network.get("guidance_embeds")),
    )


def _decoder_widths(config: Mapping[str, Any]) -> tuple[list[int], int]:
    """Channels from the image's size down, and pixels per latent cell."""
    if "block_out_channels" in config:
        widths = [int(channels) for channels in config["block_out_channels"]]
        return widths, 2 ** (len(widths) - 1)
    if "decoder_block_out_channels" in config:
        widths = [int(channels) for channels in config["decoder_block_out_channels"]]
        return widths, 2 ** (len(widths) - 1)
    if "dim_mult" in config:
        widths = [int(config["base_dim"]) * int(multiple) for multiple in config["dim_mult"]]
        return widths, 2 ** (len(widths) - 1)
    raise ValueError(f"expected an autoencoder of a known class, found {config.get('_class_name')}")


def _learner(config: RunConfig, shape: Shape) -> Iterator[Part]:
    size = DTYPE_BYTES[config.model.dtype]
    trained, said = _trained(config, shape)
    yield from _weights(config, shape, with_network=config.model.lora is not None)
    yield Part("adapter" if config.model.lora else "network", trained * TRAINED_BYTES, f"{said} x {TRAINED_BYTES} B")
    rows = config.learning.micro_batch * _calls(config, shape)
    one, blocks = BLOCK_BYTES * size // 2, f"{shape.blocks} blocks"
    kept = one * shape.blocks
    said = f"{one} x {blocks}"
    if config.model.gradient_checkpointing:
        kept, said = size * shape.blocks + one, f"({size} x {blocks} + {one})"
    yield Part(
        "activations",
        rows * kept * shape.tokens * shape.width,
        f"{rows} x {shape.tokens:,} tokens x {shape.width:,} x {said}",
    )
    groups = config.learning.groups_per_update
    yield _states(config, shape, groups)


def _rollout(config: RunConfig, shape: Shape) -> Iterator[Part]:
    size = DTYPE_BYTES[config.model.dtype]
    trained, said = _trained(config, shape)
    yield from _weights(config, shape, with_network=True)
    if config.model.lora is not None:
        yield Part("adapter", trained * 4, f"{said} x 4 B")
    if config.fleet.merge_adapter:
        kept = sum(map(math.prod, _adapted(config, shape).values()))
        yield Part("weights before merging", kept * size, f"{kept:,} x {size} B")
    samples = config.sampling.samples_per_group
    rows, one = samples * _calls(config, shape), SAMPLING_BYTES * size // 2
    yield Part(
        "activations",
        rows * one * shape.tokens * shape.width,
        f"{rows} x {shape.tokens:,} tokens x {shape.width:,} x {one}",
    )
    yield _states(config, shape, 1)
    images = samples * _images_scored(config)
    images = min(images, config.model.decode_batch or images)
    pixels = max(size.height * size.width for size in config.sampling.sizes)
    yield Part(
        "decoding",
        images * 4 * pixels * shape.decoder_width * size,
        f"{images} images x 4 x {pixels:,} pixels x {shape.decoder_width} x {size} B",
    )


def _calls(config: RunConfig, shape: Shape) -> int:
    """Rows of the network's batch for each sample."""
    return 2 if config.sampling.guidance > 1.0 and not shape.takes_guidance else 1


def _images_scored(config: RunConfig) -> int:
    """Of one sample."""
    process = process_of(config.sampling.behaviour())
    credit = config.learning.advantage.credit()
    return len(steps_read(credit, num_images(process), trained_transitions(process), first_image_after(process)))


def _reward(config: RunConfig) -> Iterator[Part]:
    for reward in config.rewards:
        files = [Path(value) for value in reward.options.values() if isinstance(value, str) and Path(value).exists()]
        if str(reward.options.get("device", "cpu")) == "cpu":
            yield Part(reward.use, 0, "on the CPU")
        else:
            yield Part(reward.use, sum(map(_file_bytes, files)), "its model files" if files else "not known here")


def _weights(config: RunConfig, shape: Shape, *, with_network: bool) -> Iterator[Part]:
    """Text encoders that wait or leave hold nothing while the run goes on."""
    size = DTYPE_BYTES[config.model.dtype]
    away = ("text_encoder",) if config.model.text_encoders != "keep" else ()
    for name, number in shape.parameters.items():
        if (name != NETWORK or with_network) and not name.startswith(away):
            yield Part(name, number * size, f"{number:,} x {size} B")


def _states(config: RunConfig, shape: Shape, groups: int) -> Part:
    trained = trained_transitions(process_of(config.sampling.behaviour()))
    pairs = groups * config.sampling.samples_per_group * len(trained)
    return Part("states", 12 * pairs * shape.latent, f"{pairs} pairs x 3 x {shape.latent:,} x 4 B")


def _trained(config: RunConfig, shape: Shape) -> tuple[int, str]:
    """How many parameters are trained, at most, and in words."""
    if config.model.lora is None:
        number = shape.parameters[NETWORK]
        return number, f"{number:,}"
    rank = config.model.lora.rank
    adapted = _adapted(config, shape)
    number = rank * sum(map(sum, adapted.values()))
    return number, f"{'' if config.model.lora.targets else 'at most '}{number:,} on {len(adapted)} layers"


def _adapted(config: RunConfig, shape: Shape) -> dict[str, tuple[int, int]]:
    """The layers under the adapter; without `targets` all of them, though a family may leave some out."""
    targets = config.model.lora.targets if config.model.lora is not None else None
    return {name: size for name, size in shape.matrices.items() if targets is None or re.search(targets, name)}


def _text_tokens(folder: Path, max_sequence_length: int) -> int:
    """SD3 puts T5's tokens, or zeros, behind CLIP's 77."""
    index = _json(folder / "model_index.json")
    return max_sequence_length + (77 if index["_class_name"] == "StableDiffusion3Pipeline" else 0)


def _tensors(component: Path) -> Iterator[tuple[str, list[int]]]:
    for file in sorted(component.glob("*.safetensors")):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        yield from ((name, entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _file_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    kinds = (".safetensors", ".bin", ".pt", ".pth", ".onnx")
    return sum(file.stat().st_size for file in files if file.is_file() and file.suffix in kinds)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"expected a diffusers pipeline folder, found no {path}; change `model.path`")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _sorted(parts: Iterator[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=lambda part: -part.size_bytes))
