import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.calibrate import Setting, suggested

ROOT = Path(__file__).resolve().parents[3]


def setting(tau=1.0, final=0.5, spread=0.2, problem=None):
    return Setting(
        num_steps=2,
        temperature=tau,
        sigmas=(1.0, 0.5, 0.0),
        images=24,
        reward=(0.1, final),
        spread=spread,
        silent_groups=0.0,
        diversity=(0.2, 0.3),
        legibility=None,
        problem=problem,
    )


def test_the_start_has_the_widest_groups_among_those_that_are_good_enough():
    cold, warm, hot = setting(0.3, 0.5, 0.1), setting(0.6, 0.45, 0.2), setting(1.0, 0.3, 0.4)
    assert suggested([cold, warm, hot]) is warm


def test_what_cannot_be_trained_or_has_no_spread_is_no_start():
    assert suggested([setting(problem="too cold"), setting(spread=0.0)]) is None
    fine = setting(spread=0.01)
    assert suggested([setting(final=9.0, problem="too cold"), fine]) is fine


def test_a_negative_reward_has_its_floor_below_it():
    best, wide = setting(final=-1.0, spread=0.1), setting(final=-1.1, spread=0.2)
    assert suggested([best, wide, setting(final=-2.0, spread=0.9)]) is wide


def calibrate(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "services", "calibrate", "deploy/configs/quickstart.yaml", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.integration
def test_a_table_of_every_setting_is_printed_and_written(tmp_path):
    output = tmp_path / "table.json"
    options = ["--steps=1", "--steps=4", "--temperature=0", "--temperature=1", "--groups=2", f"--output={output}"]
    done = calibrate("sampling.samples_per_group=4", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    settings = {(entry["num_steps"], entry["temperature"]): entry for entry in found["settings"]}
    assert list(settings) == [(1, 0.0), (1, 1.0), (4, 0.0), (4, 1.0)]
    assert [len(entry["reward"]) for entry in settings.values()] == [1, 1, 4, 4]
    assert all(entry["images"] == 8 for entry in settings.values())
    assert settings[4, 1.0]["problem"] is None
    assert "no transition has a density" in settings[1, 1.0]["problem"]
    assert settings[4, 0.0]["diversity"][0] == pytest.approx(settings[4, 1.0]["diversity"][0])  # the same x[0]
    assert settings[4, 0.0]["diversity"][3] != pytest.approx(settings[4, 1.0]["diversity"][3], rel=1e-4)
    assert all(0.0 <= share <= 1.0 for entry in settings.values() for share in entry["legibility"])
    assert "a start: " in done.stdout or "no start is suggested" in done.stdout
    assert found["suggested"] is None or found["suggested"]["problem"] is None


@pytest.mark.integration
def test_a_temperature_that_is_none_is_refused_and_one_that_the_kernel_does_not_have():
    done = calibrate("--temperature=2.5")
    assert done.returncode == 64
    assert "--temperature: expected numbers from 0 to 2; found 2.5" in done.stderr
    done = calibrate("--temperature=1.5", "sampling.kernel=flow_cps")
    assert done.returncode == 64
    assert "--temperature: step 0: kernel flow_cps has an eta of at most 1, found temperature 1.5" in done.stderr
