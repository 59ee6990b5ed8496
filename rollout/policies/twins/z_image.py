"""Z-Image in miniature."""

from __future__ import annotations

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen3Config, Qwen3Model

from rollout.policies.twins.tokenizers import qwen_tokenizer


def build() -> ZImagePipeline:
    """The pipeline."""
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=8,
        axes_dims=[4, 2, 2],
        axes_lens=[512, 32, 32],
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
    encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=32,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
        )
    )
    return ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=3.0), vae, encoder, qwen_tokenizer(), transformer)
