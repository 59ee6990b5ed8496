"""Two random Stable Diffusion 3 pipelines of the stock classes, one with T5 and one without, a few kilobytes each."""

from string import ascii_lowercase

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

SHIFT = 3.0


def clip_tokenizer():
    markers = ["<|startoftext|>", "<|endoftext|>"]
    letters = [*ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase)]
    vocab = {word: place for place, word in enumerate([*markers, *letters])}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=8)


def clip_encoder():
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


def t5():
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    tokenizer = T5TokenizerFast(vocab=[*special, *((letter, -3.0) for letter in ascii_lowercase)], extra_ids=0)
    config = T5Config(vocab_size=30, d_model=20, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config), tokenizer


def build_pipeline(with_t5):
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
    encoder_3, tokenizer_3 = t5() if with_t5 else (None, None)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae,
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=encoder_3,
        tokenizer_3=tokenizer_3,
    )


def save_pipeline(folder, with_t5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = build_pipeline(with_t5)
        for parameter in pipeline.transformer.parameters():  # some layers start at zero and would hide the others
            parameter.data += 0.1 * torch.randn_like(parameter)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def without_t5(tmp_path_factory):
    """The folder of a pipeline that declares its third encoder absent, like the quickstart's model."""
    return save_pipeline(tmp_path_factory.mktemp("sd3"), with_t5=False)


@pytest.fixture(scope="session")
def with_t5(tmp_path_factory):
    """The folder of a pipeline with all three encoders."""
    return save_pipeline(tmp_path_factory.mktemp("sd3_t5"), with_t5=True)
