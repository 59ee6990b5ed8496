"""The run file's `model` block: the pipeline that is aligned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from services.block import Block, Positive, Rate


class LoraConfig(Block):
    """A low-rank adapter on the denoising network."""

    rank: Positive = 32
    """Rank of the update of every targeted layer."""
    alpha: Rate = 64.0
    """Scale: the update is multiplied by alpha / rank."""
    targets: str | None = None
    """Regular expression over module names; None = every linear layer that the model family recommends."""


class ModelConfig(Block):
    """The pipeline that is aligned."""

    path: Path
    """A diffusers pipeline folder (its model_index.json chooses the family), or `hub:owner/name` of the Hugging Face
    Hub."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """The commit of a model on the hub, required there: names move. `tafs inspect hub:owner/name` shows the newest."""
    offline: bool = False
    """A model on the hub must be in the local cache already; nothing is fetched."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the network; the kernel is float32 always."""
    device: str = "auto"
    """auto = cuda where there is one, else cpu; or a torch device."""
    max_sequence_length: Positive = 256
    """Text tokens, as in a call of the stock pipeline (for SD3 those of T5, or of the zeros in its place); the same
    when serving."""
    text_encoders: Literal["keep", "cpu", "drop"] = "keep"
    """Where text encoders are between prompts, for every prompt is encoded once per process. keep: on the device; cpu:
    in the machine's memory; drop: nowhere, after all prompts of the run were encoded."""
    prompt_cache: Path | None = None
    """A folder where encoded prompts stay, shared by workers and runs; null = in each process's memory."""
    lora: LoraConfig | None = LoraConfig()
    """What is trained; null = all weights."""
    decode_batch: Positive | None = None
    """Latents per call of the decoder, which needs more memory than the network at large sizes; null = all at once."""
    tiled_decoding: bool = False
    """The autoencoder works on overlapping tiles where an image is larger than one, which bounds its memory. Images are
    those of a stock pipeline after `pipe.vae.enable_tiling()`; near the seams they differ from others."""
    tiny_decoder: Path | None = None
    """A folder of diffusers' AutoencoderTiny for the images of intermediate steps, which then differ from the
    pipeline's; the last step's image is always the pipeline's own. Only where latents are a plain autoencoder's: Stable
    Diffusion 3, FLUX.1, Z-Image."""
    gradient_checkpointing: bool = False
    """Learners compute the network's inner states again instead of keeping them: about a third slower, far smaller."""
    compile: bool = False
    """torch.compile for the network, in rollouts and learners: minutes at the start and for every new shape, then
    faster on a GPU."""
    base_adapter: Path | None = None
    """A frozen adapter under the trained one (a file or its folder), on in the reference too: a few-step distillation,
    say. The model's folder then holds that adapter's scheduler."""
    init_adapter: Path | None = None
    """Start from this saved adapter (a file or its folder); it must have the shape of `lora`."""

    @model_validator(mode="after")
    def _hub_settings_belong_to_the_hub(self) -> Self:
        if str(self.path).startswith("hub:"):
            if not re.fullmatch(r"hub:[\w.-]+/[\w.-]+", str(self.path)):
                raise ValueError(f"expected `hub:owner/name` in model.path, found {str(self.path)!r}")
            if self.revision is None:
                raise ValueError(f"{self.path} needs `revision`, a commit; `tafs inspect {self.path}` shows the newest")
        elif self.revision is not None or self.offline:
            raise ValueError("`revision` and `offline` have no effect on a local folder; remove them")
        return self

    @model_validator(mode="after")
    def _adapter_has_a_place(self) -> Self:
        if self.init_adapter is not None and self.lora is None:
            raise ValueError("init_adapter has no effect with `lora: null`; remove one of them")
        if self.base_adapter is not None and self.lora is None:
            raise ValueError("a base_adapter stays under a trained adapter; with `lora: null` merge it into the model")
        return self
