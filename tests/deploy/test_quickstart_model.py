"""The quickstart model is a genuine pipeline folder that stock diffusers runs on exactly the run's grid."""

import hashlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/quickstart/model"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def pipe():
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(FOLDER, text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_model_is_small_and_holds_safetensors_only() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12 * MEGABYTE
    assert {path.suffix for path in files} <= {".json", ".safetensors"}


def test_the_model_is_the_frozen_one() -> None:
    lines = (ROOT / "deploy/quickstart/model.sha256").read_text().splitlines()
    frozen = {name: digest for digest, name in (line.split() for line in lines)}
    found = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*.safetensors")}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()} == frozen


def test_a_plain_four_step_call_walks_exactly_the_runs_grid(pipe) -> None:
    from services.cli.run_file import load_run_file

    config = load_run_file(ROOT / "deploy/configs/quickstart.yaml")
    pipe.scheduler.set_timesteps(4)
    assert tuple(pipe.scheduler.sigmas.tolist()) == config.sampling.sigmas
    assert pipe.scheduler.config.stochastic_sampling == (config.sampling.serving_temperature == 1.0)


def test_stock_diffusers_draws_a_picture(pipe) -> None:
    image = pipe(
        "write 42 in red", height=16, width=32, num_inference_steps=4, guidance_scale=1, max_sequence_length=8
    ).images[0]
    assert image.size == (32, 16)


def test_a_prompt_fits_the_tokenizer(pipe) -> None:
    for prompt in ("write 42 in purple", "write 90 in black"):
        assert len(pipe.tokenizer(prompt).input_ids) <= pipe.tokenizer.model_max_length


def test_every_digit_is_trained_at_both_places_and_no_number_is_in_both_files() -> None:
    import json

    def numbers(name: str) -> set[str]:
        lines = (ROOT / "deploy/quickstart/prompts" / name).read_text().splitlines()
        return {json.loads(line)["metadata"]["target"] for line in lines}

    train, held_out = numbers("train.jsonl"), numbers("held_out.jsonl")
    assert not train & held_out
    assert len(held_out) * 5 == len(train | held_out)
    assert {number[0] for number in train} == set("123456789")
    assert {number[1] for number in train} == set("0123456789")
