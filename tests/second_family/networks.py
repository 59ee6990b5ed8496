"""A FLUX.2-klein of the stock classes, small enough to learn the quickstart's pictures in minutes."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

LATENT_CHANNELS = 4
TEXT_WIDTH = 32
MAX_SEQUENCE_LENGTH = 8
"""Text tokens; `write 42 in red` has six."""
SPACE = "\u0120"  # how byte-level tokenizers write a space
END = "<|endoftext|>"
WORDS = (
    "write",
    f"{SPACE}in",
    *(f"{SPACE}{colour}" for colour in ("red", "green", "blue", "purple", "brown", "black")),
)


def build_autoencoder() -> AutoencoderKLFlux2:
    """The quickstart's autoencoder in FLUX.2's class: 32 x 16 pixels <-> [4, 2, 4], for the network one patch of 16
    channels beside another.
    """
    return AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 32, 48),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def build_transformer() -> Flux2Transformer2DModel:
    """Two blocks of each kind; 2 image tokens and 8 of text."""
    return Flux2Transformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=3 * TEXT_WIDTH,
        timestep_guidance_channels=64,
        axes_dims_rope=(8, 8, 8, 8),
        guidance_embeds=False,
    )


def build_text_encoder(vocabulary: int) -> Qwen3ForCausalLM:
    """A random Qwen3 that stays as it is: its layers hand on what the embedding says, and that tells words apart."""
    encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH,
            num_hidden_layers=28,  # the pipeline reads the 9th, 18th and 27th
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
        )
    )
    torch.nn.init.normal_(encoder.get_input_embeddings().weight)
    return encoder.requires_grad_(False)


def build_tokenizer() -> Qwen2Tokenizer:
    """Every word and every digit of the quickstart's prompts is one token; the chat template adds nothing."""
    letters = sorted({letter for word in WORDS for letter in word} | {*"0123456789", SPACE})
    vocab = {token: place for place, token in enumerate([END, *letters])}
    merges = []
    for word in WORDS:
        for end in range(1, len(word)):
            if word[: end + 1] not in vocab:
                merges.append((word[:end], word[end]))
                vocab[word[: end + 1]] = len(vocab)
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, unk_token=END, pad_token=END)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The quickstart's: four steps walk 1, 0.75, 0.5, 0.25, 0, with the noise renewed at every one."""
    return FlowMatchEulerDiscreteScheduler(shift=1.0, shift_terminal=0.25, stochastic_sampling=True)
