import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.run_file import load_run_file
from tests.ablation.arms import ARMS
from tests.ablation.study import BARE

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_a_valid_run_file(name):
    arm = ARMS[name]
    load_run_file(ROOT / "deploy/configs/quickstart.yaml", [*BARE, *arm.overrides, *arm.fixed])


def study(out, *arguments):
    prompts = (ROOT / "deploy/quickstart/prompts/held_out.jsonl").read_text().splitlines()[::9]
    (out / "twelve.jsonl").write_text("\n".join(prompts) + "\n")
    command = [sys.executable, "-m", "tests.ablation.study", "--out", str(out), "--images=48", "--every=24"]
    return subprocess.run(
        [*command, "--evaluate=24", "--settings", f"evaluation.prompts={out / 'twelve.jsonl'}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )


@pytest.mark.integration
def test_a_study_runs_its_arms_and_never_repeats_what_is_done(tmp_path):
    first = study(tmp_path, "--arms", "step_aware", "--seeds", "1", "--baseline", "step_aware")
    assert first.stdout.count(" updates") == 1
    again = study(tmp_path, "--arms", "step_aware", "branching", "--seeds", "1", "--baseline", "step_aware")
    assert again.stdout.count(" updates") == 1
    assert "branching seed 1" in again.stdout
    records = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [record["arm"] for record in records] == ["step_aware", "branching"]
    assert [point["images"] for point in records[0]["curve"]] == [0, 24, 48]
    assert records[0]["curve"][0]["serving"] == records[1]["curve"][0]["serving"]  # the same model, the same images
    assert records[0]["seconds"] > 0.0
    assert (tmp_path / "figure.png").exists()
    assert "branching" in (tmp_path / "table.md").read_text()
