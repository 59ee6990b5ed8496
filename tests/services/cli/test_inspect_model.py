from pathlib import Path

import pytest
from safetensors.torch import load_file

from rollout.policies.twins.build import save_twin
from services.cli.inspect_model import inspect_model
from services.errors import ConfigError

MODEL = Path(__file__).resolve().parents[3] / "deploy/quickstart/model"


def test_it_says_what_the_folder_is_and_how_it_would_be_trained() -> None:
    lines = list(inspect_model(MODEL, num_steps=4, height=16, width=32, rank=2))
    text = "\n".join(lines)
    assert lines[0].startswith("family      StableDiffusion3Pipeline; unguided, stock is called with guidance_scale=1")
    assert "latents     4 x 2 x 4 (32 dimensions) for 32 x 16 pixels" in lines
    assert "schedule    4 steps: [1, 0.75, 0.5, 0.25, 0]" in lines
    assert "  4 x transformer_blocks.N.attn.to_q" in text
    assert "adapter     rank 2: " in text


@pytest.mark.parametrize(
    ("family", "guidance"),
    [
        ("sd3", "classifier-free above 1, at twice the work"),
        ("flux2_klein", "none, for it is distilled"),
        ("sana_sprint", "an input of the network, at the scale of its stock pipeline's calls"),
    ],
)
def test_it_says_what_guidance_does(tmp_path: Path, family: str, guidance: str) -> None:
    folder = save_twin(family, tmp_path / family)
    assert f"guidance    {guidance}" in list(inspect_model(folder, 4, 32, 32, 2))


def test_it_counts_the_parameters_of_the_files() -> None:
    (line,) = (line for line in inspect_model(MODEL, 4, 16, 32, 2) if " transformer: " in line)
    tensors = load_file(MODEL / "transformer" / "diffusion_pytorch_model.safetensors").values()
    number = sum(tensor.numel() for tensor in tensors)
    assert f"{number:,} (float32 {number * 4 / 2**30:.3g} GiB" in line


def test_a_size_that_does_not_fit_is_a_wrong_configuration() -> None:
    with pytest.raises(ConfigError, match="divisible by 8, found 17 x 32"):
        list(inspect_model(MODEL, 4, 17, 32, 2))


def test_a_folder_that_is_no_pipeline_is_a_wrong_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a diffusers pipeline folder"):
        list(inspect_model(tmp_path, 4, 16, 32, 2))
