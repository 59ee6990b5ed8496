"""The shipped run files: valid, on their models' own grids, in room for the machines they name, and run for real."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from rollout.policies import stock
from services.cli.run_file import load_run_file
from services.fleet.placement import bundles_of, parse_nodes, plan
from tests.rollout.policies import family_checks, test_flux1, test_flux2_klein, test_qwen_image, test_z_image
from tests.rollout.policies.conftest import save_pipeline

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "deploy/configs"
FILES = sorted(CONFIGS.glob("*/*.yaml"))
NODES = {
    "1gpu": ["cpus=16 gpus=1"],
    "8gpu": ["cpus=96 gpus=8"],
    "64gpu": ["4x cpus=96 gpus=8", "4x cpus=96 gpus=8 spot=64"],
}
LOG_3 = math.log(3.0)
GRIDS = {
    "sd3.5-medium": ({"shift": 3.0}, 10, None),
    "sd3.5-large-turbo": ({"shift": 3.0}, 4, None),
    "flux1-schnell": ({"shift": 1.0}, 4, None),
    "flux2-klein": ({"use_dynamic_shifting": True}, 4, "empirical"),
    "z-image-turbo": ({"shift": 3.0}, 8, None),
    "qwen-image-lightning": ({"use_dynamic_shifting": True}, 4, LOG_3),
}
"""The scheduler of the published model: its configuration, steps, and dynamic shift."""
TWINS = {
    "sd3.5-medium": lambda folder: save_pipeline(folder, with_t5=True),
    "sd3.5-large-turbo": lambda folder: save_pipeline(folder, with_t5=True),
    "flux1-schnell": lambda folder: twin(test_flux1.build(False, {"shift": 1.0}), folder),
    "flux2-klein": lambda folder: twin(test_flux2_klein.build(True), folder),
    "z-image-turbo": lambda folder: twin(test_z_image.build(), folder),
    "qwen-image-lightning": lambda folder: twin(test_qwen_image.build(test_qwen_image.LIGHTNING), folder),
}
LENGTHS = {"sd3.5-medium": 6, "sd3.5-large-turbo": 6, "qwen-image-lightning": test_qwen_image.LENGTH}
"""Text tokens of a twin whose tokenizer or template wants another number than the page's."""


def twin(pipeline, folder):
    return family_checks.save_random(pipeline, folder)


def ids(path):
    return f"{path.parent.name}/{path.stem}"


def test_there_is_one_for_every_model_and_size() -> None:
    assert {ids(file) for file in FILES} == {f"{model}/{size}" for model in GRIDS for size in NODES}


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_a_run_file_is_valid_and_has_a_place_on_the_machines_it_names(file) -> None:
    config = load_run_file(file)
    assert config.name == f"{file.parent.name}-{file.stem}"
    assert file.read_text().startswith("# ")
    assert config.sampling.prompts == Path("deploy/prompts/scenes.jsonl")
    nodes = [node for index, text in enumerate(NODES[file.stem]) for node in parse_nodes(text, str(index))]
    found = plan(bundles_of(config.fleet), nodes)
    assert found.homeless == ()
    used = {(placed.node, gpu) for placed in found.placed for gpu in placed.gpus}
    assert len(used) == int(file.stem.removesuffix("gpu")), "a GPU would be paid for and not used"


@pytest.mark.parametrize("model", GRIDS)
def test_the_grid_is_the_models_own(model) -> None:
    given, steps, mu = GRIDS[model]
    config = load_run_file(CONFIGS / model / "8gpu.yaml")
    if mu == "empirical":
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        mu = compute_empirical_mu((config.sampling.height // 16) * (config.sampling.width // 16), steps)
    grid = stock.scheduler_grid(FlowMatchEulerDiscreteScheduler(**given), steps, mu)
    assert config.sampling.sigmas == pytest.approx(grid, abs=1e-5)


def the_pages_overrides() -> list[str]:
    """Those of docs/cluster.md for a run on a CPU with a tiny model."""
    page = (ROOT / "docs/cluster.md").read_text()
    (command,) = re.findall(r"^    tafs train \S+ (model\.path=TWIN(?:.*\\\n)*.*)$", page, re.M)
    return shlex.split(command.replace("\\\n", " "))


def run_twice(file: Path, parent: Path) -> None:
    model = file.parent.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        folder = TWINS[model](parent / "twin")
    overrides = [text.replace("TWIN", str(folder)) for text in the_pages_overrides()]
    overrides += [f"model.max_sequence_length={LENGTHS[model]}"] if model in LENGTHS else []
    command = [sys.executable, "-m", "services", "train", str(file.relative_to(ROOT)), f"runs={parent}", *overrides]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = (parent / load_run_file(file).name / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [1, 2]


@pytest.mark.integration
def test_a_run_file_makes_two_updates_on_a_tiny_model_of_its_class(tmp_path) -> None:
    run_twice(CONFIGS / "flux1-schnell" / "1gpu.yaml", tmp_path)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("file", FILES, ids=ids)
def test_every_run_file_makes_two_updates_on_a_tiny_model_of_its_class(file, tmp_path) -> None:
    run_twice(file, tmp_path)
