"""An open_clip checkpoint as a transformers CLIPModel.

open_clip (github.com/mlfoundations/open_clip) keeps query, key and value in one tensor, multiplies by projections from
the right, and names things differently; the arithmetic is the same. Sizes are read off the tensors. What they do not
tell, the width of a head, is 80 for ViT-H/14's images and 64 for everything else.
"""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from rewards.checkpoints import load_strictly

_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_INSIDE_BLOCK: Mapping[str, str] = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_OUTSIDE: Mapping[str, str] = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TRANSPOSED: Mapping[str, str] = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}


def clip_from_open_clip(tensors: Mapping[str, Tensor], *, eos_token_id: int, origin: str) -> CLIPModel:
    """The CLIPModel with these weights, GELU as in ViT-H/14.

    tensors: a state dict in open_clip's layout. eos_token_id: the tokenizer's; the text is pooled there. origin: named
    in errors. Raises MissingModelError where tensors are missing, of another shape or unknown.
    """
    converted = dict(pair for key, value in tensors.items() for pair in _renamed(key, value))
    with torch.device("meta"):
        model = CLIPModel(_config(tensors, eos_token_id))
    load_strictly(model, converted, origin)
    for embeddings in (model.text_model.embeddings, model.vision_model.embeddings):  # position_ids: no parameters
        count = embeddings.position_embedding.num_embeddings
        device = embeddings.position_embedding.weight.device
        embeddings.register_buffer("position_ids", torch.arange(count, device=device)[None], persistent=False)
    return model


def _renamed(key: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    block = _BLOCK.fullmatch(key)
    if block is None:
        yield (_TRANSPOSED[key], value.T) if key in _TRANSPOSED else (_OUTSIDE.get(key, key), value)
        return
    half = "vision_model" if block[1] else "text_model"
    prefix = f"{half}.encoder.layers.{block[2]}"
    if block[3] in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = block[3].removeprefix("attn.in_proj_")
        for name, part in zip("qkv", value.chunk(3), strict=True):
            yield f"{prefix}.self_attn.{name}_proj.{kind}", part
        return
    place, _, kind = block[3].rpartition(".")
    yield f"{prefix}.{_INSIDE_BLOCK.get(place, place)}.{kind}", value


def _config(tensors: Mapping[str, Tensor], eos_token_id: int) -> CLIPConfig:
    patches, width = tensors["visual.positional_embedding"].shape
    patch_size = tensors["visual.conv1.weight"].shape[-1]
    vocabulary, text_width = tensors["token_embedding.weight"].shape
    projection = tensors["visual.proj"].shape[1]
    return CLIPConfig(
        projection_dim=projection,
        vision_config={
            "hidden_size": width,
            "intermediate_size": tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": _depth(tensors, "visual.transformer"),
            "num_attention_heads": width // (80 if width == 1280 else 64),
            "image_size": patch_size * round((patches - 1) ** 0.5),
            "patch_size": patch_size,
            "projection_dim": projection,
            "hidden_act": "gelu",
        },
        text_config={
            "hidden_size": text_width,
            "intermediate_size": tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": _depth(tensors, "transformer"),
            "num_attention_heads": text_width // 64,
            "max_position_embeddings": tensors["positional_embedding"].shape[0],
            "vocab_size": vocabulary,
            "eos_token_id": eos_token_id,
            "projection_dim": projection,
            "hidden_act": "gelu",
        },
    )


def _depth(tensors: Mapping[str, Tensor], transformer: str) -> int:
    return sum(key.startswith(f"{transformer}.resblocks.") and key.endswith(".ln_1.weight") for key in tensors)
