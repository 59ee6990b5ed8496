"""What a run file may ask of the method, and what it may not."""

from pathlib import Path

import pytest

from services.cli.run_file import load_run_file
from services.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def load(*overrides):
    return load_run_file(ROOT / "deploy/configs/quickstart.yaml", overrides)


@pytest.mark.parametrize("kernel", ["annealed", "flow_sde", "dance_sde", "flow_cps"])
def test_a_group_is_drawn_with_the_run_files_kernel_and_served_with_the_annealed_one(kernel):
    sampling = load(f"sampling.kernel={kernel}", "sampling.temperature={start: 0.7}").sampling
    assert sampling.behaviour().kernel == kernel
    assert sampling.constant_behaviour(0.0).kernel == "annealed"


@pytest.mark.parametrize(
    ("overrides", "scored"),
    [
        (["learning.advantage={mode: terminal}"], (3,)),
        (["learning.advantage={mode: gae}"], (0, 1, 2, 3)),
        (["sampling.last_step=floor", "sampling.last_std=0.1", "learning.advantage={mode: terminal}"], (4,)),
        (["sampling.last_step=floor", "sampling.last_std=0.1"], (0, 1, 2, 3, 4)),
        (["sampling.last_step=x0", "sampling.last_std=0.2", "learning.advantage={mode: terminal}"], (3,)),
        (["sampling.last_step=x0", "sampling.last_std=0.2", "learning.advantage={mode: next}"], (0, 1, 2, 3)),
        (["sampling.last_step=x0", "sampling.last_std=0.2", "sampling.sigmas=[1, 0]"], (0,)),
    ],
)
def test_only_the_images_that_the_advantage_reads_are_decoded_and_scored(overrides, scored):
    assert load(*overrides).steps_scored() == scored


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sampling.last_step=floor"], r"`sampling`: `last_std` belongs to last_step floor and x0"),
        (["sampling.last_std=0.1"], r"`sampling`: `last_std` belongs to last_step floor and x0"),
        (["sampling.last_step=floor", "sampling.last_std=0.01"], r"step 3 .*cannot be trained.*`last_std`"),
        (["sampling.last_step=x0", "sampling.last_std=0.05"], r"step 0 .*cannot be trained"),
        (
            ["sampling.last_step=x0", "sampling.last_std=0.2", "sampling.kernel=flow_sde"],
            r"kernel flow_sde has no effect with last_step x0",
        ),
        (
            ["sampling.last_step=x0", "sampling.last_std=0.2", "learning.advantage={mode: same_step}"],
            r"same_step is no control with sampling\.last_step x0",
        ),
        (["sampling.kernel=flow_sd"], r"`sampling\.kernel`.*'flow_sde'.*found 'flow_sd'"),
        (["sampling.sigmas=[1, 0]"], r"no transition has a density.*`last_step: x0`"),
        (
            ["learning.advantage={mode: terminal, regress_baseline: true}"],
            r"`regress_baseline` has no effect in mode terminal",
        ),
    ],
)
def test_settings_that_do_not_fit_are_told(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load(*overrides)


def test_the_regressed_baseline_of_gae_can_be_asked_for():
    assert load("learning.advantage={mode: gae, regress_baseline: true}").learning.advantage.credit().regress_baseline
    assert not load("learning.advantage={mode: gae}").learning.advantage.credit().regress_baseline
