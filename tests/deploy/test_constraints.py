"""The constraint files: one for every extra, each with a pin that fits for whatever pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/constraints"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ENVIRONMENTS = sorted(EXTRAS.keys() - {"dev"})  # dev is installed beside each of them: `make EXTRA=cuda`


def pins(file):
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in lines]
    assert all(pairs), f"{file.name}: expected NAME==VERSION in every line"
    found = {canonicalize_name(pair[1]): pair[2] for pair in pairs}
    assert len(found) == len(pairs), f"{file.name} pins a package twice"
    return found


@pytest.mark.parametrize("extra", ENVIRONMENTS)
def test_an_extra_has_a_pin_that_fits_for_everything_it_asks_for(extra) -> None:
    pinned = pins(FOLDER / f"{extra}.txt")
    asked = [Requirement(text) for text in (*PROJECT["dependencies"], *EXTRAS[extra], *EXTRAS["dev"])]
    missing = [requirement.name for requirement in asked if canonicalize_name(requirement.name) not in pinned]
    assert missing == []
    unfit = [
        str(asked_for) for asked_for in asked if pinned[canonicalize_name(asked_for.name)] not in asked_for.specifier
    ]
    assert unfit == []


def test_what_runs_on_a_gpu_is_what_was_tested_on_the_cpu() -> None:
    cpu, cuda = (pins(FOLDER / f"{extra}.txt") for extra in ("cpu", "cuda"))
    assert cuda.items() >= cpu.items()


def test_an_image_is_made_with_the_constraints_of_its_extra() -> None:
    used = {file.name: set(re.findall(r"-c (\S+)", file.read_text())) for file in (ROOT / "deploy/docker").iterdir()}
    assert used == {
        "Dockerfile": {'"deploy/constraints/${EXTRA}.txt"'},
        "vllm.Dockerfile": {"/opt/constraints/vllm.txt"},
    }
