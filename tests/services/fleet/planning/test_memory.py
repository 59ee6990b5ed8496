"""The memory formulas against networks that are really built."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

from rollout.lora import attach_adapter
from rollout.policies.build import PolicySpec, load_policy
from rollout.trained import trained_tensors
from services.cli.plan import plan_lines
from services.cli.run_file import load_run_file
from services.fleet.planning.memory import BLOCK_BYTES, memory_plan, read_shape
from services.fleet.planning.placement import Node

ROOT = Path(__file__).resolve().parents[4]
QUICKSTART = ROOT / "deploy/configs/quickstart.yaml"
QUICKSTART_MODEL = ROOT / "deploy/quickstart/model"
TOKENS = 4096 + 256


def test_shapes_are_read_from_headers_as_the_loaded_pipeline_has_them() -> None:
    policy = load_policy(PolicySpec(folder=ROOT / "deploy/quickstart/model", max_sequence_length=8))
    shape = read_shape(ROOT / "deploy/quickstart/model", 16, 32, 8)
    assert shape.parameters["transformer"] == sum(tensor.numel() for tensor in policy.network.state_dict().values())
    assert shape.latent == math.prod(policy.initial_latents([0], 16, 32).shape[1:])
    assert shape.blocks == len(policy.network.transformer_blocks)
    assert shape.tokens == 8 + 8


def test_the_adapter_is_counted_exactly_with_targets_and_from_above_without() -> None:
    targets = r"attn\.to_[qkv]$"
    named = load_run_file(QUICKSTART, [f"model.lora.targets='{targets}'"])
    policy = load_policy(PolicySpec(folder=QUICKSTART_MODEL, max_sequence_length=8))
    everything = load_policy(PolicySpec(folder=QUICKSTART_MODEL, max_sequence_length=8))
    for network, pattern in ((policy.network, targets), (everything.network, everything.adapter_targets)):
        attach_adapter(network, pattern, 32, 64.0, seed=0)
    exact = sum(tensor.numel() for tensor in trained_tensors(policy.network).values())
    family = sum(tensor.numel() for tensor in trained_tensors(everything.network).values())
    assert adapter_bytes(named) == exact * 24
    assert family * 24 <= adapter_bytes(load_run_file(QUICKSTART)) <= family * 24 * 1.5


def adapter_bytes(config) -> int:
    return next(part.size_bytes for part in memory_plan(config, QUICKSTART_MODEL)["learner"] if part.name == "adapter")


def test_half_precision_halves_weights_and_merging_keeps_a_copy() -> None:
    whole = {part.name: part.size_bytes for part in memory_plan(load_run_file(QUICKSTART), QUICKSTART_MODEL)["rollout"]}
    half = load_run_file(QUICKSTART, ["model.dtype=bfloat16", "fleet.merge_adapter=false"])
    halved = {part.name: part.size_bytes for part in memory_plan(half, QUICKSTART_MODEL)["rollout"]}
    assert whole["transformer"] == 2 * halved["transformer"]
    assert whole["weights before merging"] > 0
    assert "weights before merging" not in halved


def test_text_encoders_that_leave_hold_nothing() -> None:
    names = [part.name for part in memory_plan(load_run_file(QUICKSTART), QUICKSTART_MODEL)["learner"]]
    dropped = load_run_file(QUICKSTART, ["model.text_encoders=drop"])
    left = [part.name for part in memory_plan(dropped, QUICKSTART_MODEL)["learner"]]
    assert set(names) - set(left) == {"text_encoder", "text_encoder_2"}


def test_a_gpu_that_is_too_small_is_told() -> None:
    config = load_run_file(
        QUICKSTART,
        ["fleet.layout=colocated", "fleet.learner.gpus=0.5", "fleet.rollout.gpus=0.5", "fleet.reward.cpus=2"],
    )
    small = "\n".join(plan_lines(config, [Node(name="a", cpus=4, gpus=1, gpu_gib=0.01)]))
    assert "a (4 CPUs, 1 GPUs): learner-0 + rollout-0 on GPU 0" in small
    assert "1 GPU(s) with learner + rollout: at most" in small
    assert "which is too little" in small
    large = "\n".join(plan_lines(config, [Node(name="a", cpus=4, gpus=1, gpu_gib=80)]))
    assert "too little" not in large
    assert "no room for learner-0, rollout-0" in "\n".join(plan_lines(config, [Node(name="a", cpus=4)]))


class Flash(torch.autograd.Function):
    """Attention that keeps what fused kernels keep: inputs, output and one sum a row."""

    @staticmethod
    def forward(ctx, query, key, value):
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, grad):
        return grad, grad, grad


def kept_bytes(network, arguments) -> int:
    """What autograd keeps for a backward pass, beside the parameters; nothing is computed on the meta device."""
    network.requires_grad_(False)
    attach_adapter(network, r"blocks\.", 32, 64.0, seed=0)
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(**arguments, return_dict=False)
    return sum(storage.nbytes() for name, storage in kept.items() if name not in own)


@pytest.fixture
def fused_attention(monkeypatch):
    def attend(query, key, value, **_):
        return Flash.apply(query, key, value)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)


@pytest.fixture
def half_precision():
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("fused_attention", "half_precision")
@pytest.mark.parametrize("checkpointed", [False, True])
def test_activations_of_the_real_widths_stay_below_the_formula(checkpointed) -> None:
    """FLUX.1's and SD3.5-medium's own widths at 1024 pixels, fewer blocks: a difference of depths is a block's."""
    for build, arguments, width in ((flux, flux_arguments(), 3072), (sd3_medium, sd3_arguments(), 1536)):
        sizes = {}
        for depth in (2, 4):
            with torch.device("meta"):
                network = build(depth)
                if checkpointed:
                    network.enable_gradient_checkpointing()
                sizes[depth] = kept_bytes(network, {name: given.to("meta") for name, given in arguments.items()})
        one = (sizes[4] - sizes[2]) / 2 / (TOKENS * width)
        assert one < (2.2 if checkpointed else BLOCK_BYTES)
        assert one > (1.8 if checkpointed else 0.4 * BLOCK_BYTES)


def flux(depth):
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=depth // 2,
        num_single_layers=depth - depth // 2,
        attention_head_dim=128,
        num_attention_heads=24,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
    )


def flux_arguments():
    return {
        "hidden_states": torch.empty(1, 4096, 64, dtype=torch.bfloat16),
        "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, 256, 4096, dtype=torch.bfloat16),
        "pooled_projections": torch.empty(1, 768, dtype=torch.bfloat16),
        "img_ids": torch.empty(4096, 3, dtype=torch.float32),
        "txt_ids": torch.empty(256, 3, dtype=torch.float32),
    }


def sd3_medium(depth):
    """The real one has 24 blocks, 13 of them with a second attention."""
    return SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        num_layers=depth,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        out_channels=16,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(depth // 2 + 1)),
        qk_norm="rms_norm",
    )


def sd3_arguments():
    return {
        "hidden_states": torch.empty(1, 16, 128, 128, dtype=torch.bfloat16),
        "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, 256, 4096, dtype=torch.bfloat16),
        "pooled_projections": torch.empty(1, 2048, dtype=torch.bfloat16),
    }
