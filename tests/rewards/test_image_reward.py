"""ImageReward on a tiny random network in BLIP's published layout, against BLIP's arithmetic written out here."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.build import build
from rewards.checkpoints import manifest
from rewards.image_reward import FILE, network_from_published
from rewards.pixels import cropped, network_pixels
from rewards.reward import MissingModelError, checked
from tests.rewards.tiny_networks import PROMPTS, pictures, random_tensors, save_bert_tokenizer, tiny_shapes

SIZES = {1024: 192, 3072: 576, 4096: 96, 768: 128, 197: 5, 16: 16, 30524: 10, 512: 40}
VISION, TEXT = "blip.visual_encoder", "blip.text_encoder"


def tiny_tensors() -> dict[str, Tensor]:
    """Three heads of 64 in the image encoder, two in the text encoder, two blocks in each."""
    shapes = tiny_shapes(manifest("image_reward"), SIZES)
    for key in (key for key in shapes if re.search(r"intermediate|layer\.\d\.output\.dense\.weight", key)):
        shapes[key] = tuple(80 if size == 576 else size for size in shapes[key])
    shapes["mlp.layers.0.weight"], shapes["mlp.layers.0.bias"] = (1024, 128), (1024,)
    shapes["mlp.layers.2.weight"] = (128, 1024)
    return random_tensors(shapes)


def linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(x: Tensor, state: dict[str, Tensor], name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]
    )


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """[L, D] of q [L, D], k and v [M, D]."""

    def split(x: Tensor) -> Tensor:
        return x.reshape(len(x), heads, -1).transpose(0, 1)

    weights = (split(q) @ split(k).mT / (q.shape[-1] // heads) ** 0.5).softmax(-1)
    return (weights @ split(v)).transpose(0, 1).reshape(len(q), -1)


def seen(image: np.ndarray, state: dict[str, Tensor]) -> Tensor:
    pixels = torch.from_numpy(network_pixels(image[None], 32, cropped))
    patches = F.conv2d(
        pixels, state[f"{VISION}.patch_embed.proj.weight"], state[f"{VISION}.patch_embed.proj.bias"], stride=16
    )
    x = torch.cat([state[f"{VISION}.cls_token"][0], patches[0].flatten(1).T]) + state[f"{VISION}.pos_embed"][0]
    for index in range(2):
        block = f"{VISION}.blocks.{index}"
        q, k, v = linear(norm(x, state, f"{block}.norm1", 1e-6), state, f"{block}.attn.qkv").chunk(3, dim=-1)
        x = x + linear(attention(q, k, v, heads=3), state, f"{block}.attn.proj")
        y = F.gelu(linear(norm(x, state, f"{block}.norm2", 1e-6), state, f"{block}.mlp.fc1"))
        x = x + linear(y, state, f"{block}.mlp.fc2")
    return norm(x, state, f"{VISION}.norm", 1e-6)


def read(tokens: list[int], image: Tensor, state: dict[str, Tensor]) -> Tensor:
    words = f"{TEXT}.embeddings"
    x = state[f"{words}.word_embeddings.weight"][tokens] + state[f"{words}.position_embeddings.weight"][: len(tokens)]
    x = norm(x, state, f"{words}.LayerNorm", 1e-12)
    for index in range(2):
        layer = f"{TEXT}.encoder.layer.{index}"
        for kind, memory in (("attention", None), ("crossattention", image)):
            source = x if memory is None else memory
            block = f"{layer}.{kind}"
            q = linear(x, state, f"{block}.self.query")
            k, v = (linear(source, state, f"{block}.self.{part}") for part in ("key", "value"))
            y = linear(attention(q, k, v, heads=2), state, f"{block}.output.dense")
            x = norm(x + y, state, f"{block}.output.LayerNorm", 1e-12)
        y = linear(F.gelu(linear(x, state, f"{layer}.intermediate.dense")), state, f"{layer}.output.dense")
        x = norm(x + y, state, f"{layer}.output.LayerNorm", 1e-12)
    return x[0]


def published_score(image: np.ndarray, tokens: list[int], state: dict[str, Tensor]) -> float:
    x = read(tokens, seen(image, state), state)
    for layer in (0, 2, 4, 6, 7):
        x = linear(x, state, f"mlp.layers.{layer}")
    return (x.item() - 0.16717362830052426) / 1.0333394966054072


def test_the_score_is_what_the_published_formula_gives(tmp_path: Path) -> None:
    state, words = tiny_tensors(), save_bert_tokenizer(tmp_path)
    torch.save(state, tmp_path / FILE)
    expected = [
        published_score(image, words(prompt).input_ids, state)
        for image, prompt in zip(pictures(), PROMPTS, strict=True)
    ]
    reward = build("image_reward", {"model": str(tmp_path), "tokenizer": str(tmp_path), "batch_size": 2})
    got = checked(reward, pictures(), PROMPTS, [{}] * 3)
    assert np.ptp(got) > 1e-2, "the pictures must differ for the comparison to mean something"
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_a_state_dict_made_from_the_manifest_loads_strictly_and_has_the_sizes_of_blip_large() -> None:
    tensors = {key: torch.empty(shape, device="meta") for key, shape in manifest("image_reward").items()}
    network = network_from_published(tensors, "the manifest")
    vision, text = network.vision.config, network.text.config
    assert (vision.image_size, vision.num_attention_heads, vision.num_hidden_layers) == (224, 16, 24)
    assert (text.encoder_hidden_size, text.num_attention_heads, text.num_hidden_layers) == (1024, 12, 12)


def test_other_tensors_are_refused_by_name(tmp_path: Path) -> None:
    save_bert_tokenizer(tmp_path)
    torch.save({**tiny_tensors(), "blip.itm_head.weight": torch.zeros(2, 2)}, tmp_path / FILE)
    with pytest.raises(MissingModelError, match=rf"(?s){FILE}.*Unexpected key.*itm_head"):
        build("image_reward", {"model": str(tmp_path), "tokenizer": str(tmp_path)})
