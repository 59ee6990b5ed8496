"""What `tafs check` finds about a model and its settings without its weights."""

import json

import pytest
from safetensors.torch import load_file, save_file

from rollout.policies.twins.build import save_twin
from services.cli.run_file import load_run_file
from services.errors import ConfigError
from services.fleet.workers.build import build_policy, check_policy

GRID = "sampling.sigmas=[1,0.954692,0.875369,0.700709,0]"  # FLUX.2-klein's own at 32 x 32


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("klein")
    save_twin("flux2_klein", folder / "model")
    (folder / "prompts.jsonl").write_text(json.dumps({"text": "a cat"}) + "\n")
    values = {
        "name": "klein",
        "model": {"path": str(folder / "model"), "max_sequence_length": 12, "lora": {"rank": 2, "alpha": 4}},
        "sampling": {"prompts": str(folder / "prompts.jsonl"), "height": 32, "width": 32, "samples_per_group": 4},
        "rewards": [{"use": "jpeg_size"}],
        "learning": {"updates": 1, "groups_per_update": 1},
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(values))
    return path


def test_a_model_that_fits_its_settings_is_told(run_file):
    config = load_run_file(run_file, [GRID])
    trained = sum(tensor.numel() for tensor in build_policy(config).network.parameters() if tensor.requires_grad)
    assert check_policy(config) == f"policy: latents 16 x 8 x 8, {trained:,} trained parameters"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("sampling.guidance=3", r"is distilled, found 3; set `sampling\.guidance: 1`"),
        ("sampling.height=34", r"divisible by 4, found 34 x 32; change `height` and `width`"),
        ("sampling.other_sizes=[{height: 64, width: 32, share: 0.5}]", r"other_sizes\[0\]: the model's own grid at 64"),
        ("model.lora.targets=nothing", r"no linear layer matches 'nothing'; change `model\.lora\.targets`"),
        ("model.init_adapter=absent", r"found none; change `model\.init_adapter`"),
        ("model.base_adapter=absent", r"found none; change `model\.base_adapter`"),
        ("model.tiny_decoder=absent", r"remove `model\.tiny_decoder`"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused_without_its_weights(run_file, setting, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_policy(load_run_file(run_file, [GRID, setting]))


def test_a_base_adapter_of_another_model_is_refused(run_file, tmp_path):
    config = load_run_file(run_file, [GRID, "model.lora.targets=proj_out"])
    build_policy(config).save_trained(tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({name: tensor[:, :1].clone() for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ConfigError, match=r"does not fit: (.|\n)*; change `model\.base_adapter`"):
        check_policy(load_run_file(run_file, [GRID, f"model.base_adapter={tmp_path}"]))
