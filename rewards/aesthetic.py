"""The LAION aesthetic predictor v2: how much would people like to look at this?

github.com/christophschuhmann/improved-aesthetic-predictor, `sac+logos+ava1-l14-linearMSE.pth`: a linear head on the
unit image embedding of OpenAI's CLIP ViT-L/14, trained on people's marks from 1 to 10. The prompt plays no part.
Higher is better. Cost: one ViT-L/14 call per image (81 GFLOP). The real checkpoints were not run here: tests load tiny
random networks of the same classes and layout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPModel

from rewards.checkpoints import checkpoint_file, load_pretrained, load_strictly, load_tensors
from rewards.clip import ImageTower
from rewards.linear_head import LinearHead
from rewards.pixels import cropped

HEAD_FILE = "sac+logos+ava1-l14-linearMSE.pth"


@dataclass(frozen=True, slots=True)
class Aesthetic:
    """A mark from 1 to 10; generated pictures get between 4 and 7."""

    tower: ImageTower
    head: LinearHead

    name: ClassVar[str] = "aesthetic"
    range: ClassVar[tuple[float, float]] = (1.0, 10.0)
    required_metadata: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[bool] = False

    @torch.inference_mode()
    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8."""
        scores: NDArray[np.float32] = self.head(self.tower(images)).squeeze(-1).cpu().numpy()
        return scores


def build_aesthetic(
    *,
    head: str,
    model: str = "openai/clip-vit-large-patch14",
    device: str = "cpu",
    batch_size: int = 16,
) -> Aesthetic:
    """The aesthetic predictor.

    head: a local folder, or a hub id, with sac+logos+ava1-l14-linearMSE.pth; its authors publish it on GitHub. model: a
    local folder or a hub id of the CLIP. device: where both run, such as "cuda:0". batch_size: images per network call.
    Raises MissingModelError if either is not there, or the head does not fit.
    """
    network = load_pretrained(CLIPModel, model).to(device)
    file = checkpoint_file(head, HEAD_FILE)
    linear = LinearHead(network.config.projection_dim)
    load_strictly(linear, load_tensors(file), str(file))
    return Aesthetic(ImageTower(model=network, fit=cropped, batch_size=batch_size), linear.to(device))
