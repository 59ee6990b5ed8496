"""CLIPScore: does the picture show what the prompt says?

Hessel et al., "CLIPScore: a reference-free evaluation metric for image captioning" (2104.08718, equation 1):

    2.5 max(0, cos(image, "A photo depicts " + prompt))

with OpenAI's CLIP ViT-B/32. Higher is better. Cost: one ViT-B/32 call per image (4.4 GFLOP), one short text per prompt.
The real checkpoint was not run here: tests load tiny random networks of the same classes and layout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from transformers import CLIPModel, CLIPTokenizer

from rewards.checkpoints import load_pretrained, load_tokenizer
from rewards.clip import Clip, ImageTower
from rewards.pixels import cropped

PREFIX = "A photo depicts "
WEIGHT = 2.5


@dataclass(frozen=True, slots=True)
class ClipScore:
    """At most 2.5 in theory; CLIP's two towers lie apart, so that good matches with ViT-B/32 are near 0.8."""

    clip: Clip

    name: ClassVar[str] = "clip_score"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    required_metadata: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[bool] = False

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8."""
        cosines = self.clip.cosines(images, [PREFIX + prompt for prompt in prompts])
        scores: NDArray[np.float32] = (WEIGHT * cosines.clamp(min=0)).cpu().numpy()
        return scores


def build_clip_score(
    *, model: str = "openai/clip-vit-base-patch32", device: str = "cpu", batch_size: int = 16
) -> ClipScore:
    """CLIPScore on a CLIP in transformers' layout.

    model: a local folder or a hub id with network and tokenizer. device: where it runs, such as "cuda:0". batch_size:
    images per network call. Raises MissingModelError if the model is not there.
    """
    network = load_pretrained(CLIPModel, model).to(device)
    tower = ImageTower(model=network, fit=cropped, batch_size=batch_size)
    return ClipScore(Clip(tower=tower, tokenizer=load_tokenizer(CLIPTokenizer, model)))
