"""adapter/README.md: the model card that makes the adapter's folder ready for the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from rollout.types import Behaviour
from services.observe.headline import interval_text, metric_title, sampler_title, value_text
from services.observe.summary import Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCard:
    """What a model card says."""

    run: str
    base_model: str  # a repository id, or the folder the run loaded
    pipeline: str  # the diffusers class, e.g. "StableDiffusion3Pipeline"
    absent_components: tuple[str, ...] = ()  # what the base has not got, e.g. ("text_encoder_3", "tokenizer_3")
    network: str | None = None  # the class of a network that was trained as a whole; None: an adapter was
    base_adapter: str | None = None  # a frozen adapter that the base wears under this one
    arguments: Mapping[str, object]  # further ones of the pipeline's call, e.g. {"guidance_scale": 1.0}
    max_sequence_length: int | None = None  # tokens; None: the pipeline has no such argument
    sampler: str  # e.g. "euler", "annealed"
    behaviour: Behaviour
    rewards: Mapping[str, float]  # weight by name
    updates: int
    images: int
    evaluations: tuple[Evaluation, ...] = ()
    prompt: str  # an example
    commit: str  # of the code that trained it
    license: str | None = None  # of the base model, as the Hub spells it; None: not stated


def render_model_card(card: AdapterCard) -> str:
    """The card as Markdown with YAML front matter."""
    what = "LoRA adapter" if card.network is None else "Network"
    return "\n".join(
        [
            f"---\n{_front_matter(card)}---\n",
            f"# {card.run}\n",
            f"{what} for `{card.base_model}` at {_steps(card.behaviour)}, aligned by TAFS-GRPO with the",
            f"reward{'s' if len(card.rewards) > 1 else ''} {_listed(card.rewards)}.\n",
            "## Use\n",
            f"```python\n{_snippet(card)}\n```\n",
            *_results(card.evaluations),
            "## Training\n",
            _training(card),
        ]
    )


def _front_matter(card: AdapterCard) -> str:
    fields: dict[str, object] = {
        "base_model": card.base_model,
        "base_model_relation": "adapter" if card.network is None else "finetune",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": [
            "text-to-image",
            "diffusers",
            *(["lora"] if card.network is None else []),
            "reinforcement-learning",
            "grpo",
            "few-step",
        ],
        "instance_prompt": card.prompt,
    }
    if card.license is not None:
        fields["license"] = card.license
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _snippet(card: AdapterCard) -> str:
    """From an empty file to an image: six lines, and two more under a frozen adapter. A network that was trained as a
    whole replaces the base's.
    """
    behaviour = card.behaviour
    absent = "".join(f", {component}=None" for component in card.absent_components)
    length = "" if card.max_sequence_length is None else f", max_sequence_length={card.max_sequence_length}"
    size = f"height={behaviour.height}, width={behaviour.width}"
    further = "".join(f", {name}={_literal(value)}" for name, value in card.arguments.items())
    steps = f"num_inference_steps={behaviour.num_steps}{further}"
    ours = '".", weight_name="pytorch_lora_weights.safetensors"'
    load = [f"pipeline.load_lora_weights({ours})  # this folder"]
    if card.base_adapter is not None:
        load = [
            f'pipeline.load_lora_weights({_quoted(card.base_adapter)}, adapter_name="base")',
            f'pipeline.load_lora_weights({ours}, adapter_name="ours")  # this folder',
            'pipeline.set_adapters(["base", "ours"])',
        ]
    classes, network = card.pipeline, []
    if card.network is not None:
        classes, absent, load = f"{card.network}, {card.pipeline}", f"{absent}, transformer=transformer", []
        network = [f'transformer = {card.network}.from_pretrained(".", subfolder="transformer")  # this folder']
    return "\n".join(
        [
            f"from diffusers import {classes}",
            *network,
            f"pipeline = {card.pipeline}.from_pretrained({_quoted(card.base_model)}{absent})",
            *load,
            f"prompt = {_quoted(card.prompt)}",
            f"image = pipeline(prompt, {size}, {steps}{length}).images[0]",
            'image.save("image.png")',
        ]
    )


def _literal(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _quoted(text: str) -> str:
    """The text as a Python literal in double quotes; JSON's strings are one."""
    return json.dumps(text, ensure_ascii=False)


def _results(evaluations: Sequence[Evaluation]) -> list[str]:
    """A table of the figures, nothing where there are none."""
    if not evaluations:
        return []
    cells = {(entry.metric, entry.sampler, entry.when): entry for entry in evaluations}
    rows = dict.fromkeys((entry.metric, entry.sampler) for entry in evaluations)
    lines = [
        f"| {metric_title(metric)} | {sampler_title(sampler)} "
        f"| {_cell(cells.get((metric, sampler, 'before')))} | {_cell(cells.get((metric, sampler, 'after')))} |"
        for metric, sampler in rows
    ]
    head = ["| figure | sampler | before | after |", "| --- | --- | --- | --- |"]
    return ["## Results\n", *head, *lines, "\nIn brackets the 95 % interval (Wilson's for a share).\n"]


def _cell(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "–"
    return f"{value_text(evaluation)} [{interval_text(evaluation)}], {evaluation.images:,} images"


def _training(card: AdapterCard) -> str:
    behaviour = card.behaviour
    rows = {
        "sampler of the rollouts": card.sampler,
        "steps K": str(behaviour.num_steps),
        "temperatures τ": ", ".join(f"{tau:g}" for tau in behaviour.temperatures),
        "noise levels σ": ", ".join(f"{sigma:.4g}" for sigma in behaviour.sigmas),
        "guidance": f"{behaviour.guidance:g}",
        "size": f"{behaviour.width} × {behaviour.height} pixels",
        "rewards": ", ".join(f"{name} (weight {weight:g})" for name, weight in card.rewards.items()),
        "updates": f"{card.updates:,} on {card.images:,} images",
        "commit": f"`{card.commit}`",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items()), ""])


def _steps(behaviour: Behaviour) -> str:
    return f"{behaviour.num_steps} step" + ("s" if behaviour.num_steps != 1 else "")


def _listed(rewards: Mapping[str, float]) -> str:
    names = [f"`{name}`" for name in rewards]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
