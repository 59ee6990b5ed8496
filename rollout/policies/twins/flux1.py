"""FLUX.1 in miniature: CLIP and T5 of one or two layers, a network of two blocks of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from rollout.policies.twins.tokenizers import clip_tokenizer, t5_tokenizer

SCHNELL = {"shift": 1.0}
"""Its scheduler's configuration."""


def build(scheduler: Mapping[str, Any] = SCHNELL, *, guidance_embeds: bool = False) -> FluxPipeline:
    """Schnell's layout, or with `guidance_embeds` dev's."""
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=20,
        pooled_projection_dim=8,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(2, 2, 4),
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.4,
        shift_factor=0.12,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=60,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    t5 = T5EncoderModel(T5Config(vocab_size=30, d_model=20, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
        vae=vae,
        text_encoder=clip,
        tokenizer=clip_tokenizer(32),
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer(),
    )
