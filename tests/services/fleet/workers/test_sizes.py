"""Several sizes in one run, with a model whose own grid depends on the size."""

import json

import pytest
import yaml

from rollout.policies.build import PolicySpec, load_policy
from rollout.policies.twins.build import save_twin
from services.cli.run_file import load_run_file
from services.fleet.run.alone import LoneRun
from services.fleet.workers.build import build_policy
from services.fleet.workers.placed_rewards import build_rewards

LENGTH = 48


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    return save_twin("flux2_klein", tmp_path_factory.mktemp("sizes") / "model")


def grid(klein, height, width):
    policy = load_policy(PolicySpec(folder=klein, max_sequence_length=LENGTH))
    return [round(sigma, 4) for sigma in policy.sigmas(3, height, width)]


@pytest.fixture
def load(klein, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("a cat", "two birds")))
    path = tmp_path / "run.yaml"
    values = {
        "name": "sizes",
        "model": {"path": str(klein), "max_sequence_length": LENGTH, "lora": {"rank": 2, "alpha": 4}},
        "sampling": {
            "prompts": str(prompts),
            "height": 256,
            "width": 256,
            "sigmas": grid(klein, 256, 256),
            "samples_per_group": 4,
        },
        "rewards": [{"use": "jpeg_size", "options": {"direction": "smaller"}}],
        "learning": {"updates": 2, "groups_per_update": 4, "rate": 0.01, "warmup_updates": 0},
    }
    path.write_text(yaml.safe_dump(values))
    return lambda *overrides: load_run_file(path, overrides)


def test_a_size_that_the_model_does_not_draw_is_refused_before_anything_is_drawn(load):
    with pytest.raises(ValueError, match=r"divisible by 4, found 18 x 16; change `height` and `width` in `sampling`"):
        build_policy(load("sampling.other_sizes=[{height: 18, width: 16, share: 0.5}]"))


def test_a_size_with_another_grid_of_the_models_own_must_say_which_it_means(load, klein):
    small = grid(klein, 16, 24)
    size = "height: 16, width: 24, share: 0.5"
    with pytest.raises(ValueError, match=rf"other_sizes\[0\]: the model's own grid at 16 x 24 is \[1\.0, {small[1]}"):
        build_policy(load(f"sampling.other_sizes=[{{{size}}}]"))
    build_policy(load(f"sampling.other_sizes=[{{{size}, sigmas: {small}}}]"))
    build_policy(load(f"sampling.other_sizes=[{{{size}}}]", "sampling.sigmas=[1, 0.6, 0.3, 0]"))


def test_a_run_learns_from_both_sizes(load, klein):
    other = f"sampling.other_sizes=[{{height: 16, width: 24, share: 0.5, sigmas: {grid(klein, 16, 24)}}}]"
    first = ["sampling.height=24", "sampling.width=16", f"sampling.sigmas={grid(klein, 24, 16)}"]
    config = load(other, *first, "seed=3")
    given = []
    run = LoneRun(config, build_rewards(config))
    update = run.learner.update
    run.learner.update = lambda groups, guard: given.append(groups) or update(groups, guard=guard)
    reports = [run.update() for _ in range(2)]
    assert any(len({group.group.trajectory.states.shape for group in groups}) == 2 for groups in given)
    for report in reports:
        assert report.trained
        assert report.grad_norm > 0
        assert report.guard_drift < 1e-4
