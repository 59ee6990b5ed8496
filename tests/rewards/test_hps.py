"""HPSv2.1 on a tiny random network in open_clip's layout, against open_clip's arithmetic written out here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rewards.build import build
from rewards.checkpoints import manifest
from rewards.hps import FILE
from rewards.open_clip import clip_from_open_clip
from rewards.pixels import CLIP_MEAN, CLIP_STD, letterboxed
from rewards.reward import MissingModelError, checked
from tests.rewards.tiny_networks import PROMPTS, TOKENIZER, clip_tokenizer, pictures, random_tensors, tiny_shapes

SIZES = {1280: 128, 3840: 384, 5120: 96, 1024: 128, 3072: 384, 4096: 64, 257: 5, 14: 8, 77: 16}
"""Two heads of 64 in both towers, two blocks in each, four patches of 8x8 pixels."""


def tiny_tensors() -> dict[str, Tensor]:
    sizes = {**SIZES, 49408: len(clip_tokenizer())}
    return random_tensors(tiny_shapes(manifest("hps"), sizes))


def layer_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def transformer(x: Tensor, state: dict[str, Tensor], name: str, heads: int, causal: bool) -> Tensor:
    """x [L, D]; open_clip's residual attention blocks, on PyTorch's own multi-head attention."""
    mask = torch.full((len(x), len(x)), float("-inf")).triu(1) if causal else None
    for index in range(2):
        block = f"{name}.resblocks.{index}"
        y = layer_norm(x, state, f"{block}.ln_1")
        attention, _ = F.multi_head_attention_forward(
            y, y, y, x.shape[-1], heads,
            state[f"{block}.attn.in_proj_weight"], state[f"{block}.attn.in_proj_bias"], None, None, False, 0.0,
            state[f"{block}.attn.out_proj.weight"], state[f"{block}.attn.out_proj.bias"],
            training=False, need_weights=False, attn_mask=mask,
        )  # fmt: skip
        x = x + attention
        y = F.gelu(
            F.linear(
                layer_norm(x, state, f"{block}.ln_2"),
                state[f"{block}.mlp.c_fc.weight"],
                state[f"{block}.mlp.c_fc.bias"],
            )
        )
        x = x + F.linear(y, state[f"{block}.mlp.c_proj.weight"], state[f"{block}.mlp.c_proj.bias"])
    return x


def image_features(image: np.ndarray, state: dict[str, Tensor]) -> Tensor:
    pixels = (torch.from_numpy(letterboxed(image, 16) / 255.0) - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    patches = F.conv2d(pixels.permute(2, 0, 1)[None].float(), state["visual.conv1.weight"], stride=8)
    x = torch.cat([state["visual.class_embedding"][None], patches[0].flatten(1).T])
    x = layer_norm(x + state["visual.positional_embedding"], state, "visual.ln_pre")
    x = transformer(x, state, "visual.transformer", heads=2, causal=False)
    return layer_norm(x[0], state, "visual.ln_post") @ state["visual.proj"]


def text_features(text: str, state: dict[str, Tensor]) -> Tensor:
    tokens = torch.tensor(clip_tokenizer()(text).input_ids)
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"][: len(tokens)]
    x = transformer(x, state, "transformer", heads=2, causal=True)
    return layer_norm(x, state, "ln_final")[-1] @ state["text_projection"]


def test_the_score_is_the_cosine_that_open_clip_computes(tmp_path: Path) -> None:
    state = tiny_tensors()
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / FILE)
    expected = [
        F.cosine_similarity(image_features(image, state), text_features(prompt, state), dim=0)
        for image, prompt in zip(pictures(), PROMPTS, strict=True)
    ]
    reward = build("hps", {"model": str(tmp_path), "tokenizer": str(TOKENIZER)})
    got = checked(reward, pictures(), PROMPTS, [{}] * 3)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert np.ptp(got) > 1e-3, "the pictures must differ for the comparison to mean something"


def test_a_state_dict_made_from_the_manifest_loads_strictly_and_has_the_sizes_of_vit_h() -> None:
    tensors = {key: torch.empty(shape, device="meta") for key, shape in manifest("hps").items()}
    model = clip_from_open_clip(tensors, eos_token_id=49407, origin="the manifest")
    assert sum(value.numel() for value in model.parameters()) == 986_109_441
    vision, text = model.vision_model.config, model.text_model.config
    assert (vision.image_size, vision.num_attention_heads, vision.num_hidden_layers) == (224, 16, 32)
    assert (text.max_position_embeddings, text.num_attention_heads, text.num_hidden_layers) == (77, 16, 24)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("visual.ln_post.bias"), "Missing key.*vision_model.post_layernorm.bias"),
        (lambda state: state.update({"visual.score.weight": torch.zeros(1)}), "Unexpected key.*visual.score.weight"),
        (lambda state: state.update({"ln_final.bias": torch.zeros(3)}), "size mismatch"),
    ],
    ids=["missing", "unknown", "another shape"],
)
def test_other_tensors_are_refused_by_name(change, complaint, tmp_path: Path) -> None:
    state = tiny_tensors()
    change(state)
    torch.save({"state_dict": state}, tmp_path / FILE)
    with pytest.raises(MissingModelError, match=rf"(?s){FILE}.*{complaint}"):
        build("hps", {"model": str(tmp_path), "tokenizer": str(TOKENIZER)})
