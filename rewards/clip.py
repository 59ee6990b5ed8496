"""What the scorers on CLIP share: unit embeddings of images and texts, and their cosines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from rewards.pixels import Fit, network_pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTower:
    """The image half of a CLIP."""

    model: Any  # transformers' CLIPModel
    fit: Fit
    batch_size: int

    def __post_init__(self) -> None:
        """Raise ValueError for a batch size below 1."""
        check_batch_size(self.batch_size)

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> Tensor:
        """Unit embeddings [n, D] float32 of images [n, H, W, 3] uint8."""
        size = self.model.vision_model.config.image_size
        parts = [torch.empty((0, self.model.visual_projection.out_features), device=self.model.device)]
        for start in range(0, len(images), self.batch_size):
            pixels = network_pixels(images[start : start + self.batch_size], size, self.fit)
            pooled = self.model.vision_model(torch.from_numpy(pixels).to(self.model.device)).pooler_output
            parts.append(normalize(self.model.visual_projection(pooled), dim=-1))
        return torch.cat(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Both halves of a CLIP with its tokenizer."""

    tower: ImageTower  # of a CLIPModel
    tokenizer: Any  # transformers' CLIPTokenizer

    @torch.inference_mode()
    def cosines(self, images: NDArray[np.uint8], texts: Sequence[str]) -> Tensor:
        """The cosine [n] float32 between each image [n, H, W, 3] uint8 and its text; each text is encoded once."""
        if not texts:
            return torch.zeros(0)
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        embedded = torch.cat([self._embedded(text) for text in places])
        return (self.tower(images) * embedded[[places[text] for text in texts]]).sum(dim=-1)

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosines that the network was trained with."""
        scale: Tensor = self.tower.model.logit_scale.exp()
        return scale

    def _embedded(self, text: str) -> Tensor:
        """[1, D]. One text at a time and without padding: a score must not depend on its neighbours."""
        model = self.tower.model
        limit = model.text_model.config.max_position_embeddings
        tokens = self.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
        pooled = model.text_model(tokens.input_ids.to(model.device)).pooler_output
        return normalize(model.text_projection(pooled), dim=-1)


def check_batch_size(batch_size: int) -> None:
    """Raise ValueError unless it is a number of at least 1."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"expected batch_size of at least 1; found {batch_size!r}; change it under rewards[i].options")
