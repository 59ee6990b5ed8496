"""Evaluation: which images are drawn, and how many prompts at once."""

import json
from collections import Counter

import numpy as np
import pytest
import yaml
from PIL import Image

from rollout.policies.twins.build import save_twin
from rollout.prompts import load_prompts
from services.cli.run_file import load_run_file
from services.fleet.messages import EvaluationTask
from services.fleet.workers.build import build_policy
from services.fleet.workers.evaluation import draw, evaluate
from tests.e2e.conftest import ROOT


@pytest.fixture(scope="module")
def quickstart():
    config = load_run_file(ROOT / "deploy/configs/quickstart.yaml", ["sampling.samples_per_group=4"])
    return build_policy(config), config


def one_by_one(policy, config, prompts, count):
    parts = [draw(policy, config, {index: prompt}, count, 1.0) for index, prompt in prompts.items()]
    return np.concatenate(parts).astype(int)


def test_prompts_that_are_drawn_together_have_the_images_that_each_has_alone(quickstart):
    policy, config = quickstart
    prompts = load_prompts(config.evaluation.prompts)
    chosen = {index: prompts[index] for index in (0, 7, 40)}
    images = draw(policy, config, chosen, 2, 1.0)
    assert images.shape == (6, 16, 32, 3)
    assert np.abs(images.astype(int) - one_by_one(policy, config, chosen, 2)).max() <= 1


def test_prompts_whose_conditions_have_other_shapes_are_drawn_apart_and_keep_their_places(tmp_path):
    """A prompt that names a reference image has more to attend to than its neighbours."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    lines = [{"text": "a cat"}, {"text": "the same in red", "references": ["red.png"]}, {"text": "two birds"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = {
        "name": "references",
        "model": {"path": str(save_twin("flux2_klein", tmp_path / "model")), "max_sequence_length": 48},
        "sampling": {
            "prompts": str(tmp_path / "prompts.jsonl"),
            "height": 16,
            "width": 24,
            "sigmas": [1, 0.5, 0],
            "samples_per_group": 4,
        },
        "rewards": [{"use": "jpeg_size", "options": {"direction": "smaller"}}],
        "learning": {"updates": 1, "groups_per_update": 1, "rate": 0.01},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    config = load_run_file(tmp_path / "run.yaml", [])
    policy, prompts = build_policy(config), dict(enumerate(load_prompts(config.sampling.prompts)))
    images = draw(policy, config, prompts, 1, 1.0)
    assert np.abs(images.astype(int) - one_by_one(policy, config, prompts, 1)).max() <= 1


def test_shares_draw_every_image_once_and_no_batch_is_larger_than_a_group(quickstart, monkeypatch, tmp_path):
    policy, config = quickstart
    batches = []
    velocity = type(policy).velocity
    monkeypatch.setattr(
        type(policy), "velocity", lambda self, x, *rest: batches.append(len(x)) or velocity(self, x, *rest)
    )
    lines = config.evaluation.prompts.read_text().splitlines()
    (tmp_path / "ten.jsonl").write_text("\n".join(lines[:60:6]) + "\n")
    evaluation = config.evaluation.model_copy(update={"prompts": tmp_path / "ten.jsonl", "images": 20})
    config = config.model_copy(update={"evaluation": evaluation})
    tasks = [EvaluationTask(version=None, temperatures=(0.0, 1.0), share=share, shares=3) for share in range(3)]
    parts = [evaluate(policy, config, task) for task in tasks]
    assert [part.images for part in parts] == [8, 6, 6]
    steps_and_temperatures = 4 * 2
    assert Counter(batches) == {4: 4 * steps_and_temperatures, 2: 2 * steps_and_temperatures}
    assert 0 < sum(part.exact[1.0] for part in parts) < 20
