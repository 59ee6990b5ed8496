"""The published models as far as memory goes: networks built on the meta device, sizes of the other parts by hand.

Only headers are written; a file of 24 GB is a few kilobytes here.
"""

import json
import struct
from pathlib import Path

import torch
from diffusers import (
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)

KL = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "latent_channels": 16}
QWEN_VAE = {"_class_name": "AutoencoderKLQwenImage", "base_dim": 96, "dim_mult": [1, 2, 4, 4], "z_dim": 16}
DC = {
    "_class_name": "AutoencoderDC",
    "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "latent_channels": 32,
}
VAE_PARAMETERS = 84_000_000
SD3 = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "qk_norm": "rms_norm",
}
CLIP_AND_T5 = {"text_encoder": 123_000_000, "text_encoder_2": 695_000_000, "text_encoder_3": 4_762_000_000}


def sd3_medium():
    return SD3Transformer2DModel(
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        **SD3,
    )


def sd3_large():
    return SD3Transformer2DModel(
        num_layers=38, num_attention_heads=38, caption_projection_dim=2432, pos_embed_max_size=192, **SD3
    )


def flux1():
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=128,
        num_attention_heads=24,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
    )


def flux2_klein():
    return Flux2Transformer2DModel(
        in_channels=128,
        num_layers=5,
        num_single_layers=20,
        attention_head_dim=128,
        num_attention_heads=24,
        joint_attention_dim=7680,
        guidance_embeds=False,
    )


def sana_sprint():
    """The class's own defaults are the model of 1.6 B."""
    return SanaTransformer2DModel(guidance_embeds=True, qk_norm="rms_norm_across_heads", timestep_scale=1000.0)


def z_image():
    return ZImageTransformer2DModel(
        dim=3840, n_layers=30, n_refiner_layers=2, n_heads=30, n_kv_heads=30, cap_feat_dim=2560, in_channels=16
    )


def qwen_image():
    return QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=60,
        attention_head_dim=128,
        num_attention_heads=24,
        joint_attention_dim=3584,
    )


MODELS = {
    "stable-diffusion-3.5-medium": ("StableDiffusion3Pipeline", sd3_medium, KL, CLIP_AND_T5),
    "stable-diffusion-3.5-large-turbo": ("StableDiffusion3Pipeline", sd3_large, KL, CLIP_AND_T5),
    "FLUX.1-schnell": ("FluxPipeline", flux1, KL, {"text_encoder": 123_000_000, "text_encoder_2": 4_762_000_000}),
    "FLUX.2-klein-4B": (
        "Flux2KleinPipeline",
        flux2_klein,
        KL | {"_class_name": "AutoencoderKLFlux2", "latent_channels": 32},
        {"text_encoder": 4_020_000_000},
    ),
    "Sana_Sprint_1.6B_1024px_diffusers": ("SanaSprintPipeline", sana_sprint, DC, {"text_encoder": 2_614_000_000}),
    "Z-Image-Turbo": ("ZImagePipeline", z_image, KL, {"text_encoder": 4_020_000_000}),
    "Qwen-Image": ("QwenImagePipeline", qwen_image, QWEN_VAE, {"text_encoder": 8_290_000_000}),
}


def write_headers(name: str, parent: Path) -> Path:
    """A folder that `tafs check` reads the model's memory from."""
    pipeline, build, vae, others = MODELS[name]
    folder = parent / name
    with torch.device("meta"):
        network = build()
    weights = {key: tensor.shape for key, tensor in network.state_dict().items()}
    for component, shapes in {
        "transformer": weights,
        "vae": {"all": (VAE_PARAMETERS,)},
        **{encoder: {"all": (number,)} for encoder, number in others.items()},
    }.items():
        (folder / component).mkdir(parents=True)
        header = {key: {"dtype": "BF16", "shape": list(shape), "data_offsets": [0, 0]} for key, shape in shapes.items()}
        text = json.dumps(header).encode()
        (folder / component / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    (folder / "transformer" / "config.json").write_text(network.to_json_string())
    (folder / "vae" / "config.json").write_text(json.dumps(vae))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    return folder
