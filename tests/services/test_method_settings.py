"""What a run file may ask of the method, and what it may not."""

from pathlib import Path

import pytest

from rollout.types import WeightsVersion
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
    config = load(*overrides)
    assert config.steps_scored(config.sampling.behaviour()) == scored


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
        (
            ["sampling.temperature={start: 0.9, over_updates: {to: 0.5, updates: 10}, adaptive: {target: 0.2}}"],
            r"`sampling\.temperature`: over_updates and adaptive both set the temperature",
        ),
        (["sampling.temperature={start: 2.1}"], r"sampling\.temperature\.start.*less than or equal to 2"),
        (
            ["sampling.kernel=flow_cps", "sampling.temperature={start: 1.2}"],
            r"step 0: kernel flow_cps has an eta of at most 1, found temperature 1\.2",
        ),
        (
            ["sampling.temperature={over_updates: {to: 0.01, updates: 10}}"],
            r"`sampling`: step 0 .*tau 0\.01\) cannot be trained",
        ),
        (["sampling.temperature={adaptive: {target: 0.2, minimum: 0.01}}"], r"tau 0\.01\) cannot be trained"),
        (
            ["sampling.temperature={adaptive: {target: 0.2, minimum: 0.9, maximum: 0.5}}"],
            r"expected minimum below maximum, found 0\.9 and 0\.5",
        ),
        (
            ["sampling.temperature={adaptive: {target: 0.2}}", "sampling.other_sigmas=[[1, 0.5, 0]]"],
            r"an adaptive temperature belongs to one grid",
        ),
        (["sampling.other_sigmas=[[1, 0]]"], r"no transition has a density"),
        (["sampling.other_sizes=[{height: 16, width: 32, share: 0.5}]"], r"expected each size once"),
        (["sampling.other_sizes=[{height: 16, width: 16, share: 1.0}]"], r"share.*less than 1"),
        (
            ["sampling.other_sizes=[{height: 8, width: 8, share: 0.5}, {height: 16, width: 16, share: 0.5}]"],
            r"leave something for the first size",
        ),
        (["sampling.other_sizes=[{height: 8, width: 8, share: 0.5, sigmas: [1, 0.5]}]"], r"goes from 1 to 0"),
        (
            [
                "sampling.other_sizes=[{height: 8, width: 8, share: 0.5, sigmas: [1, 0.5, 0]}]",
                "sampling.other_sigmas=[[1, 0.4, 0]]",
            ],
            r"`sigmas` of their own, and there are `other_sigmas`",
        ),
        (
            [
                "sampling.other_sizes=[{height: 8, width: 8, share: 0.5, sigmas: [1, 0.5, 0]}]",
                "sampling.temperature={adaptive: {target: 0.2}}",
            ],
            r"adaptive temperature belongs to one grid",
        ),
        (["sampling.other_sigmas=[[1, 0.5, 0.6, 0]]"], r"a grid falls strictly"),
        (["sampling.branching=[4, 4]"], r"a branching of \[4, 4\] makes 16 samples .* samples_per_group 12"),
        (["sampling.branching=[1, 1, 1, 1, 12]"], r"12 continuations of transition 3, which draws no noise"),
        (
            ["learning.kl_weight=0", "learning.nft={}", "learning.advantage={mode: terminal}"],
            r"learning\.nft learns from stored final images",
        ),
        (
            ["learning.kl_weight=0", "learning.nft={}", "sampling.last_step=floor", "sampling.last_std=0.1"],
            r"nft learns from final images: expected advantage\.mode terminal",
        ),
        (["learning.nft={}", "learning.ratio=plain"], r"`ratio` has no effect with nft"),
        (["learning.kl_mask=0.1", "learning.clip=0.1"], r"`clip` and `clip_form` have no effect with a kl_mask"),
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


def version(update=0, temperatures=()):
    return WeightsVersion(version=update, update=update, lineage=0, digest="", temperatures=temperatures)


def test_a_temperature_over_updates_follows_the_weights_that_draw_and_not_the_clock():
    sampling = load("sampling.temperature={start: 0.8, over_updates: {law: linear, to: 0.5, updates: 10}}").sampling
    taus = [sampling.behaviour_of(3, version(update), 1).temperatures[0] for update in (0, 5, 10, 50)]
    assert taus == pytest.approx([0.8, 0.6, 0.4, 0.4])
    cosine = load("sampling.temperature={over_updates: {law: cosine, to: 0.5, updates: 10}}").sampling
    taus = [cosine.behaviour_of(3, version(update), 1).temperatures[2] for update in (0, 5, 10)]
    assert taus == pytest.approx([1.0, 0.75, 0.5])


def test_a_controllers_temperatures_come_with_the_weights():
    sampling = load("sampling.temperature={start: 0.8, adaptive: {target: 0.2}}").sampling
    assert sampling.behaviour_of(3, version(7), 1).temperatures == (0.8,) * 4
    wanted = (0.3, 0.4, 0.5, 0.6)
    assert sampling.behaviour_of(3, version(7, wanted), 1).temperatures == wanted


def test_the_grid_of_a_group_follows_from_its_ordinal():
    config = load("sampling.last_step=x0", "sampling.last_std=0.2", "sampling.other_sigmas=[[1, 0], [1, 0.5, 0]]")
    behaviours = [config.sampling.behaviour_of(ordinal, version(), 1) for ordinal in range(300)]
    counts = {num_steps: sum(b.num_steps == num_steps for b in behaviours) for num_steps in (1, 2, 4)}
    assert sum(counts.values()) == 300
    assert min(counts.values()) > 70
    assert behaviours[17] == config.sampling.behaviour_of(17, version(update=9), 1)
    assert behaviours != [config.sampling.behaviour_of(ordinal, version(), 2) for ordinal in range(300)]
    assert {config.steps_scored(b) for b in behaviours} == {(0,), (0, 1), (0, 1, 2, 3)}


SIZES = (
    "sampling.other_sizes=[{height: 16, width: 16, share: 0.3}, "
    "{height: 32, width: 16, share: 0.1, sigmas: [1, 0.5, 0]}]"
)


def test_the_size_of_a_group_follows_from_its_ordinal_in_the_shares_asked_for():
    sampling = load(SIZES).sampling
    drawn = [sampling.behaviour_of(ordinal, version(), 1) for ordinal in range(3000)]
    for height, width, share, num_steps in ((16, 32, 0.6, 4), (16, 16, 0.3, 4), (32, 16, 0.1, 2)):
        here = [b for b in drawn if (b.height, b.width) == (height, width)]
        assert len(here) / 3000 == pytest.approx(share, abs=0.04)
        assert {b.num_steps for b in here} == {num_steps}
    assert drawn[17] == sampling.behaviour_of(17, version(update=9), 1)
    assert drawn != [sampling.behaviour_of(ordinal, version(), 2) for ordinal in range(3000)]
    assert sampling.behaviour() in sampling.behaviours()
    assert len(sampling.behaviours()) == 3


def test_evaluation_is_of_the_first_size():
    served = load(SIZES).sampling.constant_behaviour(0.0)
    assert (served.height, served.width, served.num_steps) == (16, 32, 4)


def test_what_a_run_file_may_ask_for_together():
    load("sampling.branching=[4, 1, 3]")
    load("sampling.last_step=floor", "sampling.last_std=0.1", "sampling.branching=[1, 1, 1, 1, 12]")
    load("learning.ratio=guard", "learning.clip_form=constant", "learning.step_weight=inverse_time")
    load("learning.kl_mask=1e-4")
    config = load(
        "learning.kl_weight=0",
        "learning.nft={strength: 0.5}",
        "learning.advantage={mode: terminal}",
        "sampling.last_step=floor",
        "sampling.last_std=0.1",
    )
    assert config.learning.nft.strength == 0.5
