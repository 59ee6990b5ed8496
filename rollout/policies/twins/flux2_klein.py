"""FLUX.2-klein in miniature; its encoder has as many layers as the pipeline reads from."""

from __future__ import annotations

from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from transformers import Qwen3Config, Qwen3ForCausalLM

from rollout.policies.twins.tokenizers import qwen_tokenizer


def build(*, is_distilled: bool = True) -> Flux2KleinPipeline:
    """The distilled one, or the base that is sampled with guidance."""
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 4.0)
    encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=32,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=28,  # the pipeline reads the 9th, 18th and 27th
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
        )
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="exponential")
    return Flux2KleinPipeline(scheduler, vae, encoder, qwen_tokenizer(), transformer, is_distilled=is_distilled)
