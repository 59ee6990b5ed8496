"""PickScore: which picture would a person pick for this prompt?

Kirstain et al., "Pick-a-Pic: an open dataset of user preferences for text-to-image generation" (2305.01569), code in
github.com/yuvalkirstain/PickScore: a CLIP ViT-H/14 fine-tuned on people's choices,

    exp(logit_scale) cos(image, prompt)

whose differences are log odds of being picked. Higher is better. Cost: one ViT-H/14 call per image (335 GFLOP; a
4 GB network). The real checkpoint was not run here: tests load tiny random networks of the same classes and layout.
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


@dataclass(frozen=True, slots=True)
class PickScore:
    """Log odds of being picked, up to a constant. Cosines between 0.15 and 0.25 at a scale of 100."""

    clip: Clip

    name: ClassVar[str] = "pick_score"
    range: ClassVar[tuple[float, float]] = (15.0, 25.0)
    required_metadata: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[bool] = False

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8."""
        cosines = self.clip.cosines(images, prompts)
        scores: NDArray[np.float32] = (self.clip.logit_scale.to(cosines.device) * cosines).cpu().numpy()
        return scores


def build_pick_score(
    *,
    model: str = "yuvalkirstain/PickScore_v1",
    tokenizer: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    device: str = "cpu",
    batch_size: int = 8,
) -> PickScore:
    """PickScore v1 from its published layout, which is transformers'.

    model, tokenizer: local folders or hub ids; the authors take the tokenizer of the network they started from. device:
    where it runs, such as "cuda:0". batch_size: images per network call. Raises MissingModelError if either is not
    there.
    """
    network = load_pretrained(CLIPModel, model).to(device)
    tower = ImageTower(model=network, fit=cropped, batch_size=batch_size)
    return PickScore(Clip(tower=tower, tokenizer=load_tokenizer(CLIPTokenizer, tokenizer)))
