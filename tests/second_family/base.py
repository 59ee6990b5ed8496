"""Train the second family's base model as the quickstart's recipe trains its own: the same pictures, rates and batches.

    python -m tests.second_family.base OUTPUT_FOLDER [--flow-updates N] [--seed S] [--wrong SHARE]

With --wrong it learns from the pictures of `tests.ablation.miscaptioned`: sharp, and so many under a wrong caption.
The autoencoder is the quickstart's; what is trained is the transformer, by flow matching. The text encoder is random
and stays so, so that every prompt is encoded once. Writes a stock `Flux2KleinPipeline` folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, Flux2KleinPipeline
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from tests.ablation.miscaptioned import captioned
from tests.second_family import networks

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/quickstart/recipe"))  # its files are scripts that import each other

import train as recipe  # noqa: E402
from render import COLOURS, NUMBERS, batch, prompt  # noqa: E402

FLOW_UPDATES = 3000
Captioned = Callable[[int, np.random.Generator], tuple[list[str], NDArray[np.uint8]]]
"""So many prompts, and their pictures [n, 16, 32, 3]."""


def normalised_autoencoder(rng: np.random.Generator) -> AutoencoderKLFlux2:
    """The quickstart's autoencoder in FLUX.2's class, with the running statistics that normalise its patches."""
    plain = AutoencoderKL.from_pretrained(ROOT / "deploy/quickstart/model/vae", local_files_only=True)
    vae = networks.build_autoencoder()
    found = vae.load_state_dict(plain.state_dict(), strict=False)
    if found.unexpected_keys or not all(name.startswith("bn.") for name in found.missing_keys):
        raise AssertionError(f"the two autoencoders differ: {found}")
    with torch.no_grad():
        pictures = recipe.as_tensor(batch(1024, rng, recipe.FLOW_OUT_OF_FOCUS)[1])
        patches = pixel_unshuffle(vae.encode(pictures).latent_dist.sample(), 2)
        vae.bn.running_mean.copy_(patches.mean((0, 2, 3)))
        vae.bn.running_var.copy_(patches.var((0, 2, 3)))
    return vae.eval().requires_grad_(False)


def clean_latents(vae: AutoencoderKLFlux2, pictures: Tensor) -> Tensor:
    """x0 [n, 16, 1, 2] of pictures [n, 3, 16, 32] in [-1, 1], as the pipeline normalises."""
    patches = pixel_unshuffle(vae.encode(pictures).latent_dist.sample(), 2)
    mean, variance = vae.bn.running_mean.view(1, -1, 1, 1), vae.bn.running_var.view(1, -1, 1, 1)
    return (patches - mean) / (variance + vae.config.batch_norm_eps).sqrt()


def train_flow(pipeline: Flux2KleinPipeline, rng: np.random.Generator, updates: int, drawn: Captioned) -> None:
    """Flow matching at uniform noise levels: the transformer learns v = eps - x0."""
    parameters = list(pipeline.transformer.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.FLOW_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.FLOW_RATE, total_steps=updates, pct_start=0.1)
    texts = [prompt(number, colour) for number in NUMBERS for colour in COLOURS]
    with torch.no_grad():
        tokens = pipeline.encode_prompt(texts, max_sequence_length=networks.MAX_SEQUENCE_LENGTH)[0]
    row_of = {text: row for row, text in enumerate(texts)}
    text_ids = torch.cartesian_prod(*(torch.arange(n) for n in (1, 1, 1, tokens.shape[1])))
    image_ids = torch.cartesian_prod(*(torch.arange(n) for n in (1, 1, 2, 1)))
    started = time.monotonic()
    for update in range(updates):
        prompts, pictures = drawn(recipe.BATCH, rng)
        with torch.no_grad():
            x0 = clean_latents(pipeline.vae, recipe.as_tensor(pictures)).flatten(2).transpose(1, 2)
        sigma = torch.rand(recipe.BATCH)
        eps = torch.randn_like(x0)
        v = pipeline.transformer(
            hidden_states=torch.lerp(x0, eps, sigma[:, None, None]),
            encoder_hidden_states=tokens[[row_of[text] for text in prompts]],
            timestep=sigma,
            img_ids=image_ids,
            txt_ids=text_ids,
            guidance=None,
            return_dict=False,
        )[0]
        loss = (v - (eps - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if update % 100 == 99:
            print(f"flow {update + 1}: loss {loss.item():.4f}, {time.monotonic() - started:.0f} s", flush=True)


def build_pipeline(vae: AutoencoderKLFlux2) -> Flux2KleinPipeline:
    """The pipeline around an autoencoder, its transformer untrained."""
    tokenizer = networks.build_tokenizer()
    return Flux2KleinPipeline(
        scheduler=networks.build_scheduler(),
        vae=vae,
        text_encoder=networks.build_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        transformer=networks.build_transformer(),
        is_distilled=True,
    )


def train_base(folder: Path, flow_updates: int, seed: int, drawn: Captioned = recipe.out_of_focus) -> None:
    """Train and write the folder."""
    torch.set_num_threads(1)  # another number of threads rounds differently and ends at other weights
    torch.manual_seed(seed)
    vae = normalised_autoencoder(np.random.default_rng([seed, 0]))
    torch.manual_seed(seed)
    pipeline = build_pipeline(vae)
    train_flow(pipeline, np.random.default_rng([seed, 1]), flow_updates, drawn)
    pipeline.save_pretrained(folder)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--flow-updates", type=int, default=FLOW_UPDATES)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--wrong", type=float, help="this share of captions, and sharp pictures")
    arguments = parser.parse_args()
    pictures = recipe.out_of_focus if arguments.wrong is None else partial(captioned, wrong=arguments.wrong)
    train_base(arguments.output, arguments.flow_updates, arguments.seed, pictures)


if __name__ == "__main__":
    main()
