import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.types import StepImages, Trajectory
from services.data.codec import decode_images, decode_trajectory, encode_images, encode_trajectory
from services.errors import BlobCorrupt


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def trajectory(dtype=torch.bfloat16, transitions=(0, 2), num_samples=3):
    shape = (num_samples, len(transitions), 4, 5, 6)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator) for _ in range(3)]
    return Trajectory(transitions=transitions, states=drawn[0].to(dtype), actions=drawn[1].to(dtype), noise=drawn[2])


def images(height, width, steps=(1, 3), num_samples=2):
    shape = (num_samples, len(steps), height, width, 3)
    return StepImages(steps=steps, pixels=np.random.default_rng(0).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_trajectory_comes_back_bit_for_bit_in_its_own_dtypes(dtype) -> None:
    sent = trajectory(dtype)
    sent.noise[0, 0, 0, 0, :3] = torch.tensor([float("nan"), -0.0, float("inf")])
    read = decode_trajectory(sent.transitions, encode_trajectory(sent))
    assert read.transitions == sent.transitions
    for name in ("states", "actions", "noise"):
        before, after = getattr(sent, name), getattr(read, name)
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        assert bits(after) == bits(before)


def test_a_trajectory_that_is_a_view_is_stored_alone() -> None:
    whole = trajectory(torch.float32, num_samples=8)
    part = Trajectory(
        transitions=(2,), states=whole.states[::4, 1:], actions=whole.actions[::4, 1:], noise=whole.noise[::4, 1:]
    )
    blobs = encode_trajectory(part)
    assert len(blobs[0]) < 3 * 4 * 5 * 6 * 4 + 400
    assert torch.equal(decode_trajectory((2,), blobs).states, part.states)


def test_blobs_of_other_transitions_are_refused() -> None:
    with pytest.raises(BlobCorrupt, match=r"states of sample 0: expected torch.float32 \(3, 4, 5, 6\)"):
        decode_trajectory((0, 1, 2), encode_trajectory(trajectory(torch.float32)))


def test_samples_of_two_dtypes_are_refused() -> None:
    mixed = encode_trajectory(trajectory(torch.float32))[:1] + encode_trajectory(trajectory(torch.float16))[1:]
    with pytest.raises(BlobCorrupt, match=r"states of sample 1: expected torch\.float32"):
        decode_trajectory((0, 2), mixed)


@given(height=st.integers(1, 40), width=st.integers(1, 40), num_samples=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_small_images_come_back_bit_for_bit(height, width, num_samples) -> None:
    sent = images(height, width, num_samples=num_samples)
    read = decode_images(sent.steps, encode_images(sent))
    assert read.steps == sent.steps
    assert np.array_equal(read.pixels, sent.pixels)
    assert read.pixels.dtype == np.uint8


def test_large_images_come_back_bit_for_bit_and_smaller() -> None:
    ramp = np.broadcast_to(np.arange(300, dtype=np.uint8)[:, None], (2, 2, 320, 300, 3))
    sent = StepImages(steps=(0, 3), pixels=ramp)
    blobs = encode_images(sent)
    assert np.array_equal(decode_images((0, 3), blobs).pixels, ramp)
    assert sum(map(len, blobs)) < ramp.nbytes / 10


def test_images_of_other_steps_are_refused() -> None:
    with pytest.raises(BlobCorrupt, match=r"images of sample 0: expected steps \[1, 2\], found \['1', '3'\]"):
        decode_images((1, 2), encode_images(images(4, 4)))


def test_images_of_two_sizes_are_refused() -> None:
    with pytest.raises(BlobCorrupt, match="expected one size"):
        decode_images((1, 3), encode_images(images(4, 4))[:1] + encode_images(images(4, 8))[1:])


@pytest.mark.parametrize("blob", [b"", b"\x80\x04K\x01.", b"\xff" * 64])
def test_bytes_that_are_no_payload_are_refused(blob) -> None:
    with pytest.raises(BlobCorrupt, match="expected safetensors"):
        decode_trajectory((0,), [blob])
    with pytest.raises(BlobCorrupt, match="expected safetensors"):
        decode_images((0,), [blob])
