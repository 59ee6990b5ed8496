"""Qwen-Image in miniature, with the scheduler of the base model or of a Lightning adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from rollout.policies.twins.tokenizers import qwen_tokenizer

DYNAMIC: dict[str, Any] = {
    "use_dynamic_shifting": True,
    "time_shift_type": "exponential",
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
}
LIGHTNING = DYNAMIC | {"base_shift": math.log(3), "max_shift": math.log(3), "shift_terminal": None}
BASE = DYNAMIC | {"base_shift": 0.5, "max_shift": 0.9, "shift_terminal": 0.02}


def build(scheduler: Mapping[str, Any] = LIGHTNING) -> QwenImagePipeline:
    """With this configuration of its scheduler."""
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[-0.7, 0.1, 0.5, -0.2],
        latents_std=[2.8, 1.4, 2.3, 1.1],
    )
    text = {
        "vocab_size": 32,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 0], "rope_type": "default"},
    }
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 8}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    return QwenImagePipeline(FlowMatchEulerDiscreteScheduler(**scheduler), vae, encoder, qwen_tokenizer(), transformer)
