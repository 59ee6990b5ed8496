"""Train the quickstart model and write it as a `StableDiffusion3Pipeline` folder.

    python deploy/quickstart/recipe/train.py OUTPUT_FOLDER [--flow-updates N] [--seed S]

Two stages on pictures drawn on the fly: an autoencoder, then flow matching of the transformer and both text encoders.
Nearly half of the pictures of the second stage are out of focus, and more than half of the model's own: it knows its
numbers and colours and draws 30 to 50 % of them legibly. Reinforcement learning has the rest to do. Takes about twelve
minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from models import build_autoencoder, build_scheduler, build_text_encoder, build_transformer
from numpy.typing import NDArray
from render import batch
from tokenizer import build_tokenizer

AUTOENCODER_UPDATES = 2000
AUTOENCODER_OUT_OF_FOCUS = 0.25
"""Fewer than the flow sees: what the autoencoder cannot draw sharply, no reward can ask for."""
FLOW_OUT_OF_FOCUS = 0.45
FLOW_RATE = 1.5e-3
BATCH = 64


def as_tensor(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [n, H, W, 3] -> float32 [n, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def train_autoencoder(vae: AutoencoderKL, rng: np.random.Generator) -> None:
    """Reconstruction (L1 and L2) with a light KL; then the latents' scale is written into the config."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=AUTOENCODER_UPDATES)
    started = time.monotonic()
    for update in range(AUTOENCODER_UPDATES):
        pictures = as_tensor(batch(BATCH, rng, AUTOENCODER_OUT_OF_FOCUS)[1])
        posterior = vae.encode(pictures).latent_dist
        restored = vae.decode(posterior.sample()).sample
        error = (restored - pictures).abs().mean() + (restored - pictures).square().mean()
        loss = error + 2e-4 * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if update % 100 == 99:
            print(
                f"autoencoder {update + 1}: error {error.item():.4f}, {time.monotonic() - started:.0f} s",
                flush=True,
            )
    with torch.no_grad():
        latents = vae.encode(as_tensor(batch(1024, rng, FLOW_OUT_OF_FOCUS)[1])).latent_dist.sample()
    vae.register_to_config(scaling_factor=1.0 / latents.std().item(), shift_factor=latents.mean().item())
    vae.requires_grad_(False)


def out_of_focus(count: int, rng: np.random.Generator) -> tuple[list[str], NDArray[np.uint8]]:
    """What the shipped model learned from."""
    return batch(count, rng, FLOW_OUT_OF_FOCUS)


def train_flow(
    pipeline: StableDiffusion3Pipeline,
    rng: np.random.Generator,
    updates: int,
    drawn: Callable[[int, np.random.Generator], tuple[list[str], NDArray[np.uint8]]] = out_of_focus,
) -> None:
    """Flow matching: the transformer learns v = eps - x0 at uniform noise levels, the text encoders learn with it.
    drawn: so many prompts and their pictures.
    """
    networks = (pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2)
    parameters = [parameter for network in networks for parameter in network.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=FLOW_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, FLOW_RATE, total_steps=updates, pct_start=0.1)
    config = pipeline.vae.config
    started = time.monotonic()
    for update in range(updates):
        prompts, pictures = drawn(BATCH, rng)
        with torch.no_grad():
            x0 = pipeline.vae.encode(as_tensor(pictures)).latent_dist.sample()
            x0 = (x0 - config.shift_factor) * config.scaling_factor
        tokens, _, pooled, _ = pipeline.encode_prompt(
            prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=8
        )
        sigma = torch.rand(BATCH)
        eps = torch.randn_like(x0)
        x = torch.lerp(x0, eps, sigma[:, None, None, None])
        v = pipeline.transformer(x, tokens, pooled, sigma * 1000.0, return_dict=False)[0]
        loss = (v - (eps - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if update % 50 == 49:
            print(f"flow {update + 1}: loss {loss.item():.4f}, {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Parse the command line, train both stages, save the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--flow-updates", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # another number of threads rounds differently and ends at other weights
    torch.manual_seed(arguments.seed)
    vae = build_autoencoder()
    train_autoencoder(vae, np.random.default_rng([arguments.seed, 0]))
    torch.manual_seed(arguments.seed)
    tokenizer = build_tokenizer(arguments.output / "tokenizer")
    pipeline = StableDiffusion3Pipeline(
        transformer=build_transformer(),
        scheduler=build_scheduler(),
        vae=vae.eval(),
        text_encoder=build_text_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=build_text_encoder(tokenizer),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    train_flow(pipeline, np.random.default_rng([arguments.seed, 1]), arguments.flow_updates)
    pipeline.save_pretrained(arguments.output, safe_serialization=True)


if __name__ == "__main__":
    main()
