"""The quickstart's networks, all of them genuine diffusers and transformers classes, only tiny."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

TEXT_WIDTH = 32
EMBEDDING_STD = 1.0


def build_autoencoder() -> AutoencoderKL:
    """32 x 16 pixels <-> latents [4, 2, 4]: 32 dimensions, since exploration gets dearer with every one of them. The
    decoder is small, since it runs once per step and sample of every group.
    """
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 32, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        shift_factor=0.0,
    )


def build_transformer() -> SD3Transformer2DModel:
    """2.3 million parameters, 8 image tokens (patch size 1), 16 text tokens of which 8 are SD3's empty T5 tokens."""
    return SD3Transformer2DModel(
        sample_size=4,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=128,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=4,
        qk_norm="rms_norm",
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """One of SD3's two CLIP text encoders: two layers, of which the pipeline reads the first."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModelWithProjection(config)
    for name, parameter in encoder.named_parameters():
        if "embedding" in name:  # CLIP starts at 0.02 and trains for weeks: here words would stay alike for minutes
            torch.nn.init.normal_(parameter, std=EMBEDDING_STD)
    return encoder


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """A schedule whose plain 4-step call walks exactly 1, 0.75, 0.5, 0.25, 0, with the noise renewed at every step
    (`stochastic_sampling`, which is temperature 1 of the run).
    """
    return FlowMatchEulerDiscreteScheduler(shift=1.0, shift_terminal=0.25, stochastic_sampling=True)
