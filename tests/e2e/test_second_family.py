"""Short runs of a second family: a tiny random FLUX.2-klein, with an adapter and as a whole."""

import json
import sys

import numpy as np
import pytest
import torch
import yaml
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel

from rollout.policies.twins.build import save_twin
from services.cli.run_file import load_run_file
from services.fleet.workers.build import build_policy
from services.fleet.workers.evaluation import draw

from .conftest import DEADLINE_S, carried_out

pytestmark = [pytest.mark.integration, pytest.mark.timeout(2 * DEADLINE_S)]

PROMPTS = ("a cat", "a red dog that runs on green grass", "two birds")


@pytest.fixture
def run_file(tmp_path):
    """A run of everything that saves memory, with a reward that any image has."""
    folder = save_twin("flux2_klein", tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in PROMPTS))
    path = tmp_path / "run.yaml"
    values = {
        "name": "klein",
        "runs": str(tmp_path / "runs"),
        "model": {
            "path": str(folder),
            "max_sequence_length": 48,
            "text_encoders": "drop",
            "prompt_cache": str(tmp_path / "prompts"),
            "decode_batch": 4,
            "gradient_checkpointing": True,
            "lora": {"rank": 2, "alpha": 4},
        },
        "sampling": {
            "prompts": str(prompts),
            "height": 16,
            "width": 24,
            "sigmas": [1, 0.7, 0.3, 0],
            "samples_per_group": 4,
        },
        "rewards": [{"use": "jpeg_size", "options": {"direction": "smaller"}}],
        "learning": {"updates": 3, "groups_per_update": 2, "rate": 0.01, "warmup_updates": 0},
        "fleet": {"rollout": {"cpus": 0.5}, "reward": {"cpus": 0.2}, "learner": {"cpus": 0.5}},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def train(run_file, *overrides):
    done = carried_out([sys.executable, "-m", "services", "train", str(run_file), *overrides])
    assert done.returncode == 0, done.stdout
    folder = load_run_file(run_file, overrides).folder
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [record["update"] for record in history] == [1, 2, 3]
    assert all(record["report"]["trained"] and record["report"]["grad_norm"] > 0 for record in history)
    checked = [record["report"]["guard_drift"] for record in history if record["report"]["guard_drift"] is not None]
    assert checked, "the ratio guard was never asked"
    assert max(checked) < 1e-4
    return folder


def first_image(policy, config):
    from rollout.prompts import load_prompts

    return draw(policy, config, {0: load_prompts(config.sampling.prompts)[0]}, 1, 0.0)[0].astype(int)


def test_an_adapter_that_a_run_trained_makes_the_same_image_in_stock_diffusers(run_file, tmp_path):
    folder = train(run_file)
    assert len(list((tmp_path / "prompts").rglob("*.safetensors"))) == len(PROMPTS)
    config = load_run_file(run_file)
    policy = build_policy(config)
    base = first_image(policy, config)
    policy.load_adapter(folder / "adapter")
    ours = first_image(policy, config)
    assert np.abs(ours - base).max() > 0, "the adapter changes nothing: the test would be blind"
    from rollout.seeding import INITIAL, named_seed, sample_seeds

    pipe = Flux2KleinPipeline.from_pretrained(config.model.path)
    pipe.load_lora_weights(folder / "adapter")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, use_dynamic_shifting=False, shift=1.0)
    seeds = sample_seeds(named_seed("evaluation", 0), 0, [0], INITIAL)
    stock = pipe(
        prompt=PROMPTS[0],
        sigmas=list(config.sampling.sigmas[:-1]),
        num_inference_steps=3,
        height=16,
        width=24,
        max_sequence_length=48,
        guidance_scale=1.0,
        latents=policy.initial_latents(seeds, 16, 24),
        output_type="np",
    ).images[0]
    assert np.abs(np.round(stock * 255.0) - ours).max() <= 1


def test_all_weights_that_a_run_trained_are_the_stock_pipelines_network(run_file):
    whole = ("name=whole", "model.lora=null", "fleet.merge_adapter=false", "learning.rate=1e-4")
    folder = train(run_file, *whole)
    trained = Flux2Transformer2DModel.from_pretrained(folder / "adapter" / "transformer")
    before = Flux2Transformer2DModel.from_pretrained(load_run_file(run_file).model.path / "transformer")
    moved = [
        name
        for (name, new), old in zip(trained.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(new, old)
    ]
    assert len(moved) > 0.9 * len(list(before.parameters()))
