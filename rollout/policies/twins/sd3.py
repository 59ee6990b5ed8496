"""Stable Diffusion 3 in miniature."""

from __future__ import annotations

from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from rollout.policies.twins.tokenizers import clip_tokenizer, t5_tokenizer

SHIFT = 3.0


def build(*, with_t5: bool = True) -> StableDiffusion3Pipeline:
    """With all three encoders, or without T5 like the quickstart's."""
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=20,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=1.5,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    t5_config = T5Config(vocab_size=30, d_model=20, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae,
        text_encoder=_clip_encoder(),
        tokenizer=clip_tokenizer(8),
        text_encoder_2=_clip_encoder(),
        tokenizer_2=clip_tokenizer(8),
        text_encoder_3=T5EncoderModel(t5_config) if with_t5 else None,
        tokenizer_3=t5_tokenizer() if with_t5 else None,
    )


def _clip_encoder() -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=60,
            hidden_size=8,
            intermediate_size=16,
            projection_dim=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
