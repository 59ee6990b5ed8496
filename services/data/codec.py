"""Trajectories and images to payloads and back, one blob per sample, bit for bit.

Every blob is a safetensors file: named arrays with dtype and shape, nothing that could run. Latents keep their own
dtype. Images are kept raw while they are small: the time to compress is then worth more than the bytes. Above
RAW_IMAGE_BYTES each is a PNG at level 1, which takes about 40 % off a smooth, noisy megapixel, since memory and network
run out first. zlib alone, without PNG's row filters, takes 1 % off the same image.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from rollout.types import StepImages, Trajectory
from services.errors import BlobCorrupt

RAW_IMAGE_BYTES = 256 * 256 * 3  # an image up to this size is stored as it is

_LATENTS = ("states", "actions", "noise")


def encode_trajectory(trajectory: Trajectory) -> list[bytes]:
    """G blobs: states, actions and noise [T, C, h, w] of each sample, each in its own dtype."""
    tensors = {"states": trajectory.states, "actions": trajectory.actions, "noise": trajectory.noise}
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return [
        safetensors.torch.save({name: tensor[sample].clone() for name, tensor in stored.items()})
        for sample in range(trajectory.states.shape[0])
    ]


def decode_trajectory(transitions: Sequence[int], blobs: Sequence[bytes]) -> Trajectory:
    """The trajectory of these G blobs, on the CPU. BlobCorrupt if they are not equal in shape and T transitions."""
    samples = [_load_latents(sample, blob) for sample, blob in enumerate(blobs)]
    first = samples[0]
    for sample, tensors in enumerate(samples):
        for name in _LATENTS:
            expected = (len(transitions), *first["states"].shape[1:])
            if tensors[name].shape != expected or tensors[name].dtype != first[name].dtype:
                raise BlobCorrupt(
                    f"{name} of sample {sample}: expected {first[name].dtype} {expected}, "
                    f"found {tensors[name].dtype} {tuple(tensors[name].shape)}"
                )
    stacked = {name: torch.stack([tensors[name] for tensors in samples]) for name in _LATENTS}
    return Trajectory(transitions=tuple(transitions), **stacked)


def encode_images(images: StepImages) -> list[bytes]:
    """G blobs: the S images [H, W, 3] uint8 of each sample, under the numbers of their steps."""
    encode = _raw if images.pixels[0, 0].nbytes <= RAW_IMAGE_BYTES else _png
    return [
        safetensors.numpy.save({str(step): encode(image) for step, image in zip(images.steps, sample, strict=True)})
        for sample in images.pixels
    ]


def decode_images(steps: Sequence[int], blobs: Sequence[bytes]) -> StepImages:
    """The images of these G blobs. BlobCorrupt if a blob holds other steps, or an image of another size."""
    samples = [_load_images(sample, steps, blob) for sample, blob in enumerate(blobs)]
    shapes = {image.shape for images in samples for image in images}
    if len(shapes) != 1:
        raise BlobCorrupt(f"images: expected one size, found {sorted(shapes)}")
    return StepImages(steps=tuple(steps), pixels=np.stack([np.stack(images) for images in samples]))


def _load_latents(sample: int, blob: bytes) -> Mapping[str, Tensor]:
    try:
        tensors = safetensors.torch.load(blob)
    except SafetensorError as error:
        raise BlobCorrupt(f"latents of sample {sample}: expected safetensors, found: {error}") from error
    if set(tensors) != set(_LATENTS):
        raise BlobCorrupt(f"latents of sample {sample}: expected {', '.join(_LATENTS)}, found {', '.join(tensors)}")
    return tensors


def _load_images(sample: int, steps: Sequence[int], blob: bytes) -> list[NDArray[np.uint8]]:
    try:
        arrays = safetensors.numpy.load(blob)
    except SafetensorError as error:
        raise BlobCorrupt(f"images of sample {sample}: expected safetensors, found: {error}") from error
    if set(arrays) != {str(step) for step in steps}:
        raise BlobCorrupt(f"images of sample {sample}: expected steps {list(steps)}, found {sorted(arrays)}")
    return [_image(arrays[str(step)]) for step in steps]


def _raw(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image)


def _png(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "png", compress_level=1)
    return np.frombuffer(stream.getvalue(), np.uint8)


def _image(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image [H, W, 3]: three dimensions are its pixels, one is a PNG's bytes."""
    if stored.ndim == 3:
        return stored
    try:
        return np.asarray(Image.open(io.BytesIO(stored.tobytes()), formats=("png",)))
    except (OSError, SyntaxError) as error:
        raise BlobCorrupt(f"an image: expected a PNG, found: {error}") from error
