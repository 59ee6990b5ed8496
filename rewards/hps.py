"""HPSv2.1: which picture do people prefer for this prompt?

Wu et al., "Human Preference Score v2" (2306.09341), code in github.com/tgxs002/HPSv2 (img_score.py): a CLIP ViT-H/14
in open_clip's layout, fine-tuned on people's preferences,

    cos(image, prompt)

of the whole image in a black square. Higher is better. Cost: one ViT-H/14 call per image (335 GFLOP; a 4 GB network).
The authors run it in half precision, we in float32: their third digit may differ. The real checkpoint was not run here:
tests load tiny random networks of the same layout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from transformers import CLIPTokenizer

from rewards.checkpoints import checkpoint_file, load_tensors, load_tokenizer
from rewards.clip import Clip, ImageTower
from rewards.open_clip import clip_from_open_clip
from rewards.pixels import letterboxed

FILE = "HPS_v2.1_compressed.pt"


@dataclass(frozen=True, slots=True)
class Hps:
    """A cosine; generated pictures get between 0.15 and 0.35."""

    clip: Clip

    name: ClassVar[str] = "hps"
    range: ClassVar[tuple[float, float]] = (0.15, 0.35)
    required_metadata: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[bool] = False

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8."""
        scores: NDArray[np.float32] = self.clip.cosines(images, prompts).cpu().numpy()
        return scores


def build_hps(
    *,
    model: str = "xswu/HPSv2",
    tokenizer: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    device: str = "cpu",
    batch_size: int = 8,
) -> Hps:
    """HPSv2.1 from its published file.

    model: a local folder, or a hub id, with HPS_v2.1_compressed.pt. tokenizer: a local folder or a hub id of CLIP's.
    device: where it runs, such as "cuda:0". batch_size: images per network call. Raises MissingModelError if either is
    not there, or the file holds other tensors.
    """
    words = load_tokenizer(CLIPTokenizer, tokenizer)
    file = checkpoint_file(model, FILE)
    network = clip_from_open_clip(load_tensors(file), eos_token_id=words.eos_token_id, origin=str(file))
    tower = ImageTower(model=network.to(device), fit=letterboxed, batch_size=batch_size)
    return Hps(Clip(tower=tower, tokenizer=words))
