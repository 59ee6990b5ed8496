"""ImageReward: would a person call this a good picture of that prompt?

Xu et al., "ImageReward: learning and evaluating human preferences for text-to-image generation" (2304.05977), code in
github.com/THUDM/ImageReward: a BLIP whose text encoder looks at the image, a linear head on its first token, and

    (head - 0.16717362830052426) / 1.0333394966054072

so that scores have mean 0 and standard deviation 1 over the authors' data. Higher is better. Cost: one ViT-L/16 and
one BERT-base call per image (70 GFLOP; a 1.8 GB network). The real checkpoint was not run here: tests load tiny random
networks of the same layout.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from rewards.checkpoints import checkpoint_file, load_strictly, load_tensors, load_tokenizer
from rewards.clip import check_batch_size
from rewards.linear_head import LinearHead
from rewards.pixels import cropped, network_pixels

FILE = "ImageReward.pt"
MEAN = 0.16717362830052426
STD = 1.0333394966054072
MAX_TOKENS = 35
HEAD_WIDTH = 64
"""Dimensions per attention head, in both encoders."""

UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
"""What the file holds beyond the scorer: BLIP's contrastive projections, and a buffer of 0 to 511."""

_VISION: Mapping[str, str] = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
_VISION_BLOCK: Mapping[str, str] = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


class ImageRewardNetwork(nn.Module):
    """The network behind the score: image and text encoder of a BLIP, and the head."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig) -> None:
        """Both encoders by their transformers configuration."""
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.mlp = LinearHead(text.hidden_size)

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Scores [n] of pixels [n, 3, S, S], normalised, with tokens and mask [n, L]."""
        seen = self.vision(pixels).last_hidden_state
        read = self.text(tokens, attention_mask=mask, encoder_hidden_states=seen, is_decoder=False)
        head: Tensor = self.mlp(read.last_hidden_state[:, 0])
        return (head.squeeze(-1) - MEAN) / STD


@dataclass(frozen=True, slots=True)
class ImageReward:
    """Standard deviations above the authors' mean."""

    network: ImageRewardNetwork
    tokenizer: Any  # transformers' BertTokenizer
    device: str
    batch_size: int

    name: ClassVar[str] = "image_reward"
    range: ClassVar[tuple[float, float]] = (-2.0, 2.0)
    required_metadata: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[bool] = False

    @torch.inference_mode()
    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8."""
        size = self.network.vision.config.image_size
        parts = [torch.zeros(0)]
        for start in range(0, len(images), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            pixels = torch.from_numpy(network_pixels(images[chosen], size, cropped)).to(self.device)
            tokens = self.tokenizer(
                list(prompts[chosen]),
                padding="max_length",
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            ).to(self.device)
            parts.append(self.network(pixels, tokens.input_ids, tokens.attention_mask).cpu())
        scores: NDArray[np.float32] = torch.cat(parts).numpy()
        return scores


def build_image_reward(
    *,
    model: str = "THUDM/ImageReward",
    tokenizer: str = "google-bert/bert-base-uncased",
    device: str = "cpu",
    batch_size: int = 8,
) -> ImageReward:
    """ImageReward v1 from its published file.

    model: a local folder, or a hub id, with ImageReward.pt. tokenizer: a local folder or a hub id of BERT's. device:
    where it runs, such as "cuda:0". batch_size: images per network call. Raises MissingModelError if either is not
    there, or the file holds other tensors.
    """
    check_batch_size(batch_size)
    words = load_tokenizer(BertTokenizer, tokenizer)
    file = checkpoint_file(model, FILE)
    network = network_from_published(load_tensors(file), str(file)).to(device)
    return ImageReward(network=network, tokenizer=words, device=device, batch_size=batch_size)


def network_from_published(tensors: Mapping[str, Tensor], origin: str) -> ImageRewardNetwork:
    """The network with these weights; its sizes are read off the tensors.

    tensors: a state dict in the published layout. origin: named in errors. Raises MissingModelError where tensors are
    missing, of another shape or unknown.
    """
    with torch.device("meta"):
        network = ImageRewardNetwork(*_configs(tensors))
    load_strictly(network, dict(_renamed(tensors)), origin)
    embeddings = network.text.embeddings  # a buffer that is no parameter, and so not in the state dict
    count = embeddings.position_embeddings.num_embeddings
    device = embeddings.position_embeddings.weight.device
    embeddings.register_buffer("position_ids", torch.arange(count, device=device)[None], persistent=False)
    return network


def _renamed(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for key, value in tensors.items():
        if key.startswith(UNUSED):
            continue
        if key.startswith("blip.visual_encoder."):
            yield f"vision.{_vision_name(key.removeprefix('blip.visual_encoder.'))}", value
        else:
            yield re.sub(r"^blip\.text_encoder\.", "text.", key), value


def _vision_name(key: str) -> str:
    if key in _VISION:
        return _VISION[key]
    block = _BLOCK.fullmatch(key)
    place, _, kind = (block[2] if block else key).rpartition(".")
    if block:
        return f"encoder.layers.{block[1]}.{_VISION_BLOCK.get(place, place)}.{kind}"
    return f"{_VISION.get(place, place)}.{kind}"


def _configs(tensors: Mapping[str, Tensor]) -> tuple[BlipVisionConfig, BlipTextConfig]:
    see, read = "blip.visual_encoder.", "blip.text_encoder."
    patches, width = tensors[f"{see}pos_embed"].shape[1:]
    patch_size = tensors[f"{see}patch_embed.proj.weight"].shape[-1]
    vocabulary, text_width = tensors[f"{read}embeddings.word_embeddings.weight"].shape
    vision = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=tensors[f"{see}blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=sum(key.startswith(see) and key.endswith(".norm1.weight") for key in tensors),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=patch_size * round((patches - 1) ** 0.5),
        patch_size=patch_size,
        layer_norm_eps=1e-6,
    )
    text = BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=text_width,
        encoder_hidden_size=width,
        intermediate_size=tensors[f"{read}encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=sum(key.endswith(".crossattention.self.query.weight") for key in tensors),
        num_attention_heads=text_width // HEAD_WIDTH,  # 12: transformers' own default of 8 is another model's
        max_position_embeddings=tensors[f"{read}embeddings.position_embeddings.weight"].shape[0],
        layer_norm_eps=1e-12,
    )
    return vision, text
