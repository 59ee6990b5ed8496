"""Real runs of the command line: real Ray, a real server, the real quickstart model and rewards, only short."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN_FILE = "deploy/configs/quickstart.yaml"
SHORT = (
    "learning.updates=3",
    "learning.groups_per_update=2",
    "sampling.samples_per_group=4",
    "learning.checkpoint_every=1",
    "evaluation.images=108",
    "evaluation.strip_prompts=2",
)
DEADLINE_S = int(os.environ.get("TAFS_TEST_DEADLINE_S", "400"))
"""For a run that a test waits for; a busy machine needs more."""


@dataclass(frozen=True)
class Finished:
    """A run of the command line that has ended."""

    code: int
    output: str
    folder: Path

    def json(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text())

    def history(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "history.jsonl").read_text().splitlines()]


def command(parent: Path, name: str, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "services", "train", RUN_FILE, f"runs={parent}", f"name={name}", *SHORT, *overrides]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONWARNINGS": "ignore", "COLUMNS": "200"}


def carried_out(command: list[str]) -> subprocess.CompletedProcess:
    """A command's end, under a deadline, with all that it said in `stdout`."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def finished(parent: Path, name: str, *overrides: str) -> Finished:
    """A run's end."""
    done = carried_out(command(parent, name, *overrides))
    return Finished(done.returncode, done.stdout, parent / name)


@pytest.fixture
def run(tmp_path):
    """run(name, *overrides) -> Finished."""
    return partial(finished, tmp_path)
