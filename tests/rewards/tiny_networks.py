"""Tiny random networks in the layouts in which the real ones are published, and pictures for them."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BertTokenizer, CLIPConfig, CLIPModel, CLIPTokenizer

TOKENIZER = Path(__file__).parents[2] / "deploy/quickstart/model/tokenizer"
PROMPTS = ["write 42 in red", "write 17", "write 42 in red"]


def pictures(count: int = 3, height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(TOKENIZER)


def save_clip(folder: Path) -> CLIPModel:
    """A CLIP of 16x16 pixels with its tokenizer; saved, and given back for an independent computation."""
    torch.manual_seed(0)
    words = clip_tokenizer()
    shared = {"intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 12}
    config = CLIPConfig(
        projection_dim=12,
        vision_config={"hidden_size": 16, "image_size": 16, "patch_size": 8, **shared},
        text_config={
            "hidden_size": 16,
            "vocab_size": len(words),
            "max_position_embeddings": 16,
            "eos_token_id": words.eos_token_id,
            "bos_token_id": words.bos_token_id,
            **shared,
        },
    )
    model = CLIPModel(config).eval()
    scatter(model)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model


def scatter(model: torch.nn.Module) -> None:
    """Weights so large that every part of the network shows in its answer."""
    for name, value in sorted(model.state_dict().items()):
        if value.is_floating_point() and value.ndim > 0:
            value.copy_(0.3 * torch.randn(value.shape) + (name.endswith("norm1.weight") or "norm" in name))


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {key: 0.3 * torch.randn(shape) for key, shape in shapes.items()}


def tiny_shapes(published: dict[str, tuple[int, ...]], sizes: dict[int, int]) -> dict[str, tuple[int, ...]]:
    """The published names with smaller sizes, and only the first two of each row of equal blocks."""
    kept = {key: shape for key, shape in published.items() if not _is_later_block(key)}
    return {key: tuple(sizes.get(size, size) for size in shape) for key, shape in kept.items()}


def _is_later_block(key: str) -> bool:
    return any(
        part.isdigit() and int(part) > 1
        for before, part in zip(key.split("."), key.split(".")[1:], strict=False)
        if before in ("resblocks", "blocks", "layer")
    )


def save_bert_tokenizer(folder: Path) -> BertTokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "write", "in", "red", "42", "17"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    tokenizer.save_pretrained(folder)
    return tokenizer
