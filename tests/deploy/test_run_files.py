"""The shipped run files: valid, on their models' own grids, in room for the machines they name, and run for real."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, SCMScheduler

from rollout.policies import stock
from rollout.policies.twins.build import save_twin
from rollout.trained import digest_tensors
from services.cli.run_file import load_run_file
from services.fleet.planning.memory import memory_plan
from services.fleet.planning.placement import GIB, bundles_of, crowded_out, parse_nodes, plan
from services.fleet.run.alone import LoneRun
from services.fleet.workers.placed_rewards import build_rewards

from .published import MODELS, write_headers

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "deploy/configs"
FILES = sorted(CONFIGS.glob("*/*.yaml"))
REWARD_GIB = 3.7  # PickScore's CLIP-H, 986 M parameters in float32
CONTEXT_GIB = 0.5
ON_A_CPU = CONFIGS / "on-a-cpu.yaml"
NODES = {
    "1gpu": ["cpus=16 gpus=1"],
    "8gpu": ["cpus=96 gpus=8"],
    "64gpu": ["4x cpus=96 gpus=8 steady=64", "4x cpus=96 gpus=8 spot=64"],
}
LOG_3 = math.log(3.0)
GRIDS = {
    "sd3.5-medium": ({"shift": 3.0}, 10, None),
    "sd3.5-large-turbo": ({"shift": 3.0}, 4, None),
    "flux1-schnell": ({"shift": 1.0}, 4, None),
    "flux2-klein": ({"use_dynamic_shifting": True}, 4, "empirical"),
    "sana-sprint": ({"prediction_type": "trigflow", "sigma_data": 0.5}, 4, "angles"),
    "z-image-turbo": ({"shift": 3.0}, 8, None),
    "qwen-image-lightning": ({"use_dynamic_shifting": True}, 4, LOG_3),
}
"""The scheduler of the published model: its configuration, steps, and dynamic shift."""
FAMILIES = {
    "sd3.5-medium": "sd3",
    "sd3.5-large-turbo": "sd3",
    "flux1-schnell": "flux1",
    "flux2-klein": "flux2_klein",
    "sana-sprint": "sana_sprint",
    "z-image-turbo": "z_image",
    "qwen-image-lightning": "qwen_image",
}


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
    assert found.homeless == crowded_out(bundles_of(config.fleet), nodes) == ()
    used = {(placed.node, gpu) for placed in found.placed for gpu in placed.gpus}
    assert len(used) == int(file.stem.removesuffix("gpu")), "a GPU would be paid for and not used"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of the published models' headers."""
    parent = tmp_path_factory.mktemp("models")
    for name in MODELS:
        write_headers(name, parent)
    return parent


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_a_gpu_of_the_size_that_a_run_file_names_holds_its_share(file, models, monkeypatch) -> None:
    """By the formulas; the reward's network, which they do not know, and CUDA's contexts in what is left."""
    monkeypatch.setenv("TAFS_MODELS", str(models))
    config = load_run_file(file)
    (gib,) = {int(size) for size in re.findall(r"of (\d+) GB", file.read_text())} or {80}
    needs = {
        role: sum(part.size_bytes for part in parts) / GIB
        for role, parts in memory_plan(config, config.model.path).items()
    }
    colocated = config.fleet.layout == "colocated"
    for share in [needs["learner"] + needs["rollout"]] if colocated else [needs["learner"], needs["rollout"]]:
        assert share + REWARD_GIB + 3 * CONTEXT_GIB < 0.97 * gib
        assert share > 0.1 * gib, "a smaller GPU would do"


@pytest.mark.parametrize("model", GRIDS)
def test_the_grid_is_the_models_own(model) -> None:
    given, steps, mu = GRIDS[model]
    config = load_run_file(CONFIGS / model / "8gpu.yaml")
    if mu == "angles":
        scheduler = SCMScheduler(**given)
        scheduler.set_timesteps(steps, max_timesteps=1.57080, intermediate_timesteps=None)
        angles = scheduler.timesteps
        levels = (angles.sin() / (angles.sin() + angles.cos())).tolist()
        assert config.sampling.sigmas == pytest.approx(levels, abs=1e-5)
        return
    if mu == "empirical":
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        mu = compute_empirical_mu((config.sampling.height // 16) * (config.sampling.width // 16), steps)
    grid = stock.scheduler_grid(FlowMatchEulerDiscreteScheduler(**given), steps, mu)
    assert config.sampling.sigmas == pytest.approx(grid, abs=1e-5)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The folder of a tiny random model of each family."""
    parent = tmp_path_factory.mktemp("twins")
    return {family: save_twin(family, parent / family) for family in sorted(set(FAMILIES.values()))}


@pytest.mark.integration  # starts no process, but takes a second each
@pytest.mark.parametrize("file", FILES, ids=ids)
def test_a_run_file_makes_two_updates_on_a_tiny_model_of_its_class(file, twins) -> None:
    config = load_run_file(file, [f"@{ON_A_CPU}", f"model.path={twins[FAMILIES[file.parent.name]]}"])
    run = LoneRun(config, build_rewards(config))
    digests = [digest_tensors(run.learner.parameters)]
    for _ in range(config.learning.updates):
        assert run.update().trained
        digests.append(digest_tensors(run.learner.parameters))
    assert len(set(digests)) == 3


def pages_commands() -> list[str]:
    """The commands of docs/cluster.md for a machine without a GPU."""
    page = (ROOT / "docs/cluster.md").read_text()
    return re.findall(r"^    tafs ((?:twin|train) .*/tmp/twin)$", page, re.M)


def run_command(arguments: list[str]) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "services", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def assert_two_updates(folder: Path) -> None:
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [1, 2]


@pytest.mark.integration
def test_the_pages_commands_run_a_run_file_without_a_gpu(tmp_path) -> None:
    twin, train = (command.replace("/tmp/twin", str(tmp_path / "twin")).split() for command in pages_commands())
    run_command(twin)
    run_command([*train, f"runs={tmp_path}"])
    assert_two_updates(tmp_path / "flux1-schnell-8gpu")


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("file", FILES, ids=ids)
def test_a_run_file_makes_two_updates_through_a_fleet_of_its_own(file, twins, tmp_path) -> None:
    twin = twins[FAMILIES[file.parent.name]]
    run_command(["train", str(file.relative_to(ROOT)), f"@{ON_A_CPU}", f"model.path={twin}", f"runs={tmp_path}"])
    assert_two_updates(tmp_path / load_run_file(file).name)
