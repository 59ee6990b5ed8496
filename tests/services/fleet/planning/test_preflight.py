import json
from pathlib import Path

import pytest
from PIL import Image

from services.cli.run_file import load_run_file
from services.errors import ConfigError
from services.fleet.planning.preflight import check_inputs

QUICKSTART = Path(__file__).resolve().parents[4] / "deploy/configs/quickstart.yaml"


def test_reference_images_that_nobody_would_read_are_refused(tmp_path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"text": "write 42", "metadata": {"target": "42"}}, {"text": "write 7", "references": ["seven.png"]}]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = load_run_file(QUICKSTART, [f"sampling.prompts={prompts}"])
    with pytest.raises(
        ConfigError, match=r"prompts\.jsonl:2: expected no references, for StableDiffusion3Pipeline reads"
    ):
        check_inputs(config)


def test_a_driver_without_gpu_and_hub_looks_at_a_reward_of_its_workers_and_does_not_build_it(tmp_path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    run_file = QUICKSTART.with_name("flux1-schnell") / "8gpu.yaml"
    rest = [f"model.path={tmp_path}"]
    found = check_inputs(load_run_file(run_file, rest), here=False)
    assert "reward: pick_score, range 15 to 25, weight 1, steps [0, 1, 2, 3]" in found
    with pytest.raises(ConfigError, match="unknown option 'devise'; did you mean 'device'"):
        check_inputs(load_run_file(run_file, [*rest, "rewards.0.options.devise=x"]), here=False)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        (None, r"prompts\.jsonl:1: expected a reference image at .*seven\.png; found: .*No such file"),
        ((80, 60), r"at least 64 pixels a side.* found 80 x 60"),
        ((640, 64), r"one at most 8 times the other, found 640 x 64"),
    ],
)
def test_reference_images_that_the_model_does_not_take_are_refused(tmp_path, size, sentence) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Flux2KleinPipeline"}))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"text": "write 7", "references": ["seven.png"]}))
    if size is not None:
        Image.new("RGB", size).save(tmp_path / "seven.png")
    config = load_run_file(QUICKSTART, [f"sampling.prompts={prompts}", f"model.path={tmp_path}"])
    with pytest.raises(ConfigError, match=sentence):
        check_inputs(config)


def test_a_pipeline_folder_that_is_not_whole_is_refused_with_what_it_lacks(tmp_path) -> None:
    index = tmp_path / "model_index.json"
    config = load_run_file(QUICKSTART, [f"model.path={tmp_path}"])
    for content, sentence in (
        ("{", r"model_index\.json: not JSON.*change `model\.path`"),
        ("[]", r"model_index\.json declares no class; supported are"),
        (
            json.dumps({"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "X"]}),
            r"expected a whole pipeline, found no .*transformer; change `model\.path`",
        ),
    ):
        index.write_text(content)
        with pytest.raises(ConfigError, match=sentence):
            check_inputs(config)
