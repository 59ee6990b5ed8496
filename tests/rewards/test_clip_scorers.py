"""CLIPScore, PickScore and the aesthetic predictor on tiny random networks, against the published formulas."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from rewards.aesthetic import HEAD_FILE, build_aesthetic
from rewards.build import build
from rewards.checkpoints import load_strictly, manifest
from rewards.linear_head import LinearHead
from rewards.reward import MissingModelError, checked
from tests.rewards.tiny_networks import PROMPTS, clip_tokenizer, pictures, random_tensors, save_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clip")


@pytest.fixture(scope="module")
def network(folder: Path) -> CLIPModel:
    return save_clip(folder)


@torch.no_grad()
def embeds(network: CLIPModel, texts: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """transformers' own unit embeddings of the pictures and the texts, through its own processor."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    pixels = torch.from_numpy(np.stack(processor(list(pictures()))["pixel_values"]))
    texts_out = []
    for text in texts:
        tokens = clip_tokenizer()(text, truncation=True, max_length=16, return_tensors="pt")
        out = network(input_ids=tokens.input_ids, pixel_values=pixels)
        texts_out.append(out.text_embeds[0])
    return out.image_embeds.numpy(), torch.stack(texts_out).numpy()


def clip_config(tensors: dict[str, torch.Tensor]) -> CLIPConfig:
    """The sizes of a published CLIP, read off its tensors."""

    def half(name: str) -> dict[str, int]:
        layers = {key.split(".")[3] for key in tensors if key.startswith(f"{name}_model.encoder")}
        inner, width = tensors[f"{name}_model.encoder.layers.0.mlp.fc1.weight"].shape
        return {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": len(layers)}

    patch_size = tensors["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    return CLIPConfig(
        projection_dim=len(tensors["text_projection.weight"]),
        vision_config={"image_size": 224, "patch_size": patch_size, "num_attention_heads": 16, **half("vision")},
        text_config={"num_attention_heads": 8, **half("text")},
    )


def score(reward, prompts: list[str] = PROMPTS) -> NDArray[np.float32]:
    return checked(reward, pictures(), prompts, [{}] * 3)


def test_clip_score_is_two_and_a_half_times_the_positive_cosine_with_the_prefixed_prompt(network, folder) -> None:
    images, texts = embeds(network, [f"A photo depicts {prompt}" for prompt in PROMPTS])
    expected = 2.5 * np.maximum(0, (images * texts).sum(axis=1))
    assert expected.max() > 0
    np.testing.assert_allclose(score(build("clip_score", {"model": str(folder)})), expected, atol=1e-5)


def test_pick_score_is_the_cosine_times_the_exponential_of_the_logit_scale(network, folder) -> None:
    images, texts = embeds(network, PROMPTS)
    expected = np.exp(network.logit_scale.item()) * (images * texts).sum(axis=1)
    reward = build("pick_score", {"model": str(folder), "tokenizer": str(folder)})
    np.testing.assert_allclose(score(reward), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def head_folder(tmp_path: Path) -> Path:
    shapes = {**manifest("aesthetic"), "layers.0.weight": (1024, 12)}
    torch.save(random_tensors(shapes), tmp_path / HEAD_FILE)
    return tmp_path


def test_the_aesthetic_score_is_five_linear_layers_on_the_unit_image_embedding(network, folder, head_folder) -> None:
    x, _ = embeds(network, PROMPTS)
    tensors = torch.load(head_folder / HEAD_FILE, weights_only=True)
    for layer in (0, 2, 4, 6, 7):
        x = x @ tensors[f"layers.{layer}.weight"].numpy().T + tensors[f"layers.{layer}.bias"].numpy()
    reward = build("aesthetic", {"model": str(folder), "head": str(head_folder)})
    np.testing.assert_allclose(score(reward), x[:, 0], rtol=1e-4, atol=1e-3)


def test_a_score_does_not_depend_on_the_batch(network, folder) -> None:
    one = build("clip_score", {"model": str(folder), "batch_size": 1})
    all_at_once = build("clip_score", {"model": str(folder), "batch_size": 3})
    np.testing.assert_allclose(score(one), score(all_at_once), atol=1e-6)


def test_no_pictures_have_no_scores(network, folder) -> None:
    reward = build("clip_score", {"model": str(folder)})
    assert checked(reward, pictures()[:0], [], []).shape == (0,)


def test_a_prompt_longer_than_the_networks_context_is_cut(network, folder) -> None:
    reward = build("clip_score", {"model": str(folder)})
    assert np.isfinite(score(reward, ["write " * 100] * 3)).all()


def test_the_published_aesthetic_head_fits_its_manifest() -> None:
    tensors = {key: torch.empty(shape, device="meta") for key, shape in manifest("aesthetic").items()}
    with torch.device("meta"):
        load_strictly(LinearHead(768), tensors, "the manifest")


@pytest.mark.parametrize(("name", "parameters"), [
    ("clip_score", 151_277_313), ("aesthetic_clip", 427_616_513), ("pick_score", 986_109_441),
])  # fmt: skip
def test_a_state_dict_made_from_a_published_clips_manifest_loads_strictly(name: str, parameters: int) -> None:
    tensors = {key: torch.empty(shape, device="meta") for key, shape in manifest(name).items()}
    known = {key: value for key, value in tensors.items() if not key.endswith(".position_ids")}
    with torch.device("meta"):
        model = CLIPModel(clip_config(tensors))
    load_strictly(model, known, "the manifest")
    assert sum(value.numel() for value in model.parameters()) == parameters


def test_the_position_ids_that_published_files_hold_are_no_tensors_too_many(network, folder, tmp_path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    for half, count in (("text", 16), ("vision", 5)):
        tensors[f"{half}_model.embeddings.position_ids"] = torch.arange(count)[None]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(
        score(build("clip_score", {"model": str(tmp_path)})), score(build("clip_score", {"model": str(folder)}))
    )


def test_a_head_with_other_tensors_is_refused_with_its_file(network, folder, head_folder) -> None:
    torch.save({"layers.0.weight": torch.zeros(1024, 12)}, head_folder / HEAD_FILE)
    with pytest.raises(MissingModelError, match=rf"(?s)LinearHead in .*{re.escape(HEAD_FILE)}.*Missing key"):
        build_aesthetic(head=str(head_folder), model=str(folder))


def test_a_file_that_holds_more_than_tensors_is_never_unpickled(network, folder, head_folder) -> None:
    torch.save(Path, head_folder / HEAD_FILE)
    with pytest.raises(Exception, match="Weights only load failed"):
        build_aesthetic(head=str(head_folder), model=str(folder))


def test_a_folder_without_the_file_says_so(network, folder, tmp_path) -> None:
    with pytest.raises(MissingModelError, match=rf"expected {re.escape(HEAD_FILE)} in the folder"):
        build_aesthetic(head=str(tmp_path), model=str(folder))


def test_a_model_without_its_weights_is_not_filled_at_random(network, folder, tmp_path) -> None:
    save_clip(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MissingModelError, match="expected a folder or a hub repository"):
        build("clip_score", {"model": str(tmp_path)})


@pytest.mark.parametrize("size", [0, "4"])
def test_a_batch_size_below_one_is_refused(network, folder, size) -> None:
    with pytest.raises(ValueError, match="expected batch_size of at least 1; found"):
        build("clip_score", {"model": str(folder), "batch_size": size})
