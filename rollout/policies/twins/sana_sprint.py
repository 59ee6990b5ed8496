"""SANA-Sprint in miniature; its tokenizer knows a few words, for Gemma's own wants a real vocabulary."""

from __future__ import annotations

from diffusers import AutoencoderDC, SanaSprintPipeline, SanaTransformer2DModel, SCMScheduler
from transformers import Gemma2Config, Gemma2Model

from rollout.policies.twins.tokenizers import word_tokenizer

SIGMA_DATA = 0.5


def build() -> SanaSprintPipeline:
    """The pipeline."""
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=8,
        mlp_ratio=2.0,
        sample_size=32,
        guidance_embeds=True,
        qk_norm="rms_norm_across_heads",
        timestep_scale=1000.0,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(4, 8, 8),
        decoder_block_out_channels=(4, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        scaling_factor=0.41407,
    )
    encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
        )
    )
    words = ["a", "cat", "red", "dog", "on", "green", "grass"]
    return SanaSprintPipeline(
        tokenizer=word_tokenizer(words),
        text_encoder=encoder,
        vae=vae,
        transformer=transformer,
        scheduler=SCMScheduler(prediction_type="trigflow", sigma_data=SIGMA_DATA),
    )
