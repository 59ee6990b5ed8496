"""FLUX.2-klein: any `Flux2KleinPipeline` folder, distilled (4 steps, no guidance) or base.

Facts of the family: the transformer predicts v = eps - x0; its timestep is sigma; the process runs on 2x2 patches of
the autoencoder's latents, [4 C, H/16, W/16], normalised by the running statistics of the autoencoder's batch norm and
not by a scaling factor; positions are (0, row, column, 0) for images and (0, 0, 0, place) for text; prompts are three
layers of a Qwen3 encoder, padded and unmasked. The grid's shift depends on the number of image tokens and of steps.
Tokens of reference images follow the image's, at the positions (10, row, column, 0), (20, row, column, 0) and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from rollout.policies import stock
from rollout.policies.build import PolicySpec
from rollout.policy import Conditions
from rollout.references import open_reference

AREA_MAX = 1024 * 1024
"""Pixels of a reference image, at most; the pipeline's own."""
REFERENCE = "reference_"
"""What the names of references' latents begin with. Each is a tensor of its own, so that rows whose images differ in
size have different shapes."""
TIME_APART = 10
"""Between the positions of one reference and the next; the pipeline's own."""


def load(spec: PolicySpec) -> Flux2KleinPolicy:
    """The policy of a folder."""
    stock.refuse_tiny_decoder(spec)
    return Flux2KleinPolicy(stock.open_pipeline(Flux2KleinPipeline, spec), spec.guidance, spec.max_sequence_length)


class Flux2KleinPolicy:
    """The five verbs for FLUX.2-klein (see `rollout.policy.Policy`)."""

    adapter_targets = r"^(transformer_blocks\.\d+\.(attn|ff|ff_context)|single_transformer_blocks\.\d+\.attn)\."

    def __init__(self, pipeline: Flux2KleinPipeline, guidance: float, max_sequence_length: int) -> None:
        if guidance > 1.0 and pipeline.config.is_distilled:
            raise ValueError(
                f"expected no guidance, for this FLUX.2-klein is distilled, found {guidance:g}; "
                "set `sampling.guidance: 1`"
            )
        self._pipeline = pipeline
        self._vae = pipeline.vae
        self.guidance = guidance
        self._max_sequence_length = max_sequence_length
        patch = pipeline.vae_scale_factor * 2
        self._layout = stock.LatentLayout(pipeline.transformer.config.in_channels, patch, multiple=patch)
        self.network: nn.Module = pipeline.transformer

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """Tokens [n, L, D], and those of the empty prompt where guidance needs them."""
        tensors = {"tokens": self._tokens(list(prompts))}
        if self.guidance > 1.0:
            tensors["negative_tokens"] = self._tokens([""] * len(prompts))
        return Conditions(tensors)

    def _tokens(self, prompts: list[str]) -> Tensor:
        tokens: Tensor = self._pipeline.encode_prompt(prompts, max_sequence_length=self._max_sequence_length)[0]
        return tokens

    @torch.no_grad()
    def encode_references(self, paths: Sequence[str]) -> Conditions:
        """Latents [1, 4 C, h, w] of every image, prepared and normalised as the stock pipeline does it: shrunk to a
        megapixel, cut to whole patches.
        """
        return Conditions({f"{REFERENCE}{place}": self._clean(path) for place, path in enumerate(paths)})

    def _clean(self, path: str) -> Tensor:
        processor, multiple = self._pipeline.image_processor, self._layout.multiple
        image = processor._resize_if_exceeds_area(open_reference(path), AREA_MAX)
        height, width = (side // multiple * multiple for side in (image.height, image.width))
        pixels = processor.preprocess(image, height=height, width=width, resize_mode="crop")
        latents: Tensor = self._pipeline._encode_vae_image(pixels.to(self._vae.device, self._vae.dtype), None)
        return latents.to(stock.device_of(self.network))

    def place_text_encoders(self, device: torch.device | None) -> None:
        """Move the text encoders, or give them up (see `stock.place_text_encoders`)."""
        stock.place_text_encoders(self._pipeline, device)

    def initial_latents(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        """Standard normal latents [n, 4 C, H / 2f, W / 2f] with the autoencoder's channels C and reduction f."""
        return self._layout.noise(seeds, height, width).to(stock.device_of(self.network))

    def sigmas(self, num_steps: int, height: int, width: int) -> tuple[float, ...]:
        """The scheduler's grid with the pipeline's shift for this many tokens and steps."""
        num_tokens = (height // self._layout.reduction) * (width // self._layout.reduction)
        mu = compute_empirical_mu(num_tokens, num_steps)
        return stock.scheduler_grid(self._pipeline.scheduler, num_steps, mu)

    def velocity(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """V = eps - x0 in float32, with classifier-free guidance where the policy was given a scale above 1."""
        given = conditions.tensors
        named = sum(name.startswith(REFERENCE) for name in given)
        references = [given[f"{REFERENCE}{place}"] for place in range(named)]
        v = self._call(x, sigma, given["tokens"], references)
        if self.guidance > 1.0:
            v = stock.guided(v, self._call(x, sigma, given["negative_tokens"], references), self.guidance)
        return v

    def _call(self, x: Tensor, sigma: Tensor, tokens: Tensor, references: Sequence[Tensor]) -> Tensor:
        height, width = x.shape[2:]
        planes = (x, *references)  # references follow the image, each at a time of its own
        out: Tensor = self.network(
            hidden_states=torch.cat([stock.to_tokens(plane).to(tokens.dtype) for plane in planes], dim=1),
            timestep=stock.rounded_sigma(sigma, tokens.dtype),
            guidance=None,
            encoder_hidden_states=tokens,
            txt_ids=_positions(0, 1, 1, tokens.shape[1], x.device),
            img_ids=torch.cat(
                [
                    _positions(TIME_APART * place, plane.shape[2], plane.shape[3], 1, x.device)
                    for place, plane in enumerate(planes)
                ]
            ),
            return_dict=False,
        )[0]
        return stock.to_planes(out[:, : height * width].float(), height, width)

    @torch.no_grad()
    def decode(self, x0: Tensor) -> Tensor:
        """Images [n, H, W, 3] uint8 on the CPU, rounded as the stock pipeline rounds."""
        norm = self._vae.bn
        mean = norm.running_mean.float().view(1, -1, 1, 1)
        std = (norm.running_var.float().view(1, -1, 1, 1) + self._vae.config.batch_norm_eps).sqrt()
        latents = pixel_shuffle(x0 * std + mean, 2).to(self._vae.dtype)
        return stock.to_images(self._vae.decode(latents, return_dict=False)[0])

    def preview(self, x0: Tensor) -> Tensor:
        """`decode`: nobody has made a tiny decoder for these latents."""
        return self.decode(x0)

    def save_trained(self, folder: Path) -> None:
        """What was trained, as stock diffusers loads it (see `stock.save_trained`)."""
        stock.save_trained(self._pipeline, folder)

    def load_adapter(self, source: Path) -> None:
        """Copy a saved adapter (a file, or a folder that holds one) into the attached one."""
        stock.load_adapter(self.network, source)


def _positions(time: int, height: int, width: int, length: int, device: torch.device) -> Tensor:
    """(time, row, column, place) of all tokens [height width length, 4], in row-major order."""
    ranges = [torch.arange(size, device=device) for size in (height, width, length)]
    return torch.cartesian_prod(torch.tensor([time], device=device), *ranges)
