import ast
import re
from dataclasses import replace

import pytest
import yaml

from rollout.types import Behaviour
from services.observe.model_card import AdapterCard, render_model_card


@pytest.fixture
def card(evaluations) -> AdapterCard:
    return AdapterCard(
        run="numbers",
        base_model="models/numbers",
        pipeline="StableDiffusion3Pipeline",
        absent_components=("text_encoder_3", "tokenizer_3"),
        arguments={"guidance_scale": 1.0},
        max_sequence_length=16,
        sampler="annealed",
        behaviour=Behaviour(sigmas=(1.0, 0.9, 0.75, 0.5, 0.0), temperatures=(0.9, 0.6, 0.3, 0.0), height=16, width=32),
        rewards={"exact_match": 1.0, "judge": 0.5},
        updates=100,
        images=12_800,
        evaluations=evaluations,
        prompt='write "42" in red: now',
        commit="0123abc",
        license="apache-2.0",
    )


def snippet(text: str) -> str:
    return re.search(r"```python\n(.*?)\n```", text, flags=re.DOTALL)[1]


def test_the_front_matter_is_what_the_hub_reads(card: AdapterCard) -> None:
    _, front, _ = render_model_card(card).split("---\n", maxsplit=2)
    fields = yaml.safe_load(front)
    assert fields["base_model"] == "models/numbers"
    assert fields["library_name"] == "diffusers"
    assert fields["license"] == "apache-2.0"
    assert fields["instance_prompt"] == card.prompt
    assert {"text-to-image", "lora", "diffusers"} <= set(fields["tags"])


def test_the_snippet_is_six_lines_of_python_that_name_what_the_base_lacks(card: AdapterCard) -> None:
    code = snippet(render_model_card(card))
    ast.parse(code)
    assert len(code.splitlines()) == 6
    assert "text_encoder_3=None, tokenizer_3=None" in code
    assert "num_inference_steps=4, guidance_scale=1, max_sequence_length=16" in code
    assert "load_lora_weights" in code


def test_the_snippet_leaves_out_what_the_pipeline_does_not_know(card: AdapterCard) -> None:
    code = snippet(render_model_card(replace(card, absent_components=(), max_sequence_length=None)))
    assert "None" not in code
    assert "max_sequence_length" not in code


def test_under_a_frozen_adapter_the_snippet_loads_both(card: AdapterCard) -> None:
    arguments = {"true_cfg_scale": 3.5, "negative_prompt": " ", "intermediate_timesteps": None}
    code = snippet(render_model_card(replace(card, base_adapter="lightning/eight.safetensors", arguments=arguments)))
    ast.parse(code)
    assert 'load_lora_weights("lightning/eight.safetensors", adapter_name="base")' in code
    assert 'set_adapters(["base", "ours"])' in code
    assert 'true_cfg_scale=3.5, negative_prompt=" ", intermediate_timesteps=None, max_sequence_length=16' in code


def test_a_network_that_was_trained_as_a_whole_replaces_the_bases(card: AdapterCard) -> None:
    text = render_model_card(replace(card, network="SD3Transformer2DModel"))
    code = snippet(text)
    ast.parse(code)
    assert "from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline" in code
    assert 'transformer = SD3Transformer2DModel.from_pretrained(".", subfolder="transformer")' in code
    assert "tokenizer_3=None, transformer=transformer)" in code
    assert "lora" not in text.lower()
    assert yaml.safe_load(text.split("---\n")[1])["base_model_relation"] == "finetune"


def test_the_figures_stand_before_and_after_with_their_intervals(card: AdapterCard) -> None:
    text = render_model_card(card)
    assert re.search(r"Exact match \| τ = 1 \| 9\.4 % \[.* to .* %\], 576 images \| 80\.2 %", text)
    assert "0.9, 0.6, 0.3, 0" in text
    assert "judge (weight 0.5)" in text


def test_a_run_without_an_evaluation_has_a_card_without_results(card: AdapterCard) -> None:
    text = render_model_card(replace(card, evaluations=(), rewards={"ocr": 1.0}))
    assert "## Results" not in text
    assert "reward `ocr`." in text
