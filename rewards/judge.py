"""The held-out judge: a second reader of text that nothing is trained on.

A policy trained on a recogniser's score learns that recogniser's mistakes too. What a different network reads
tells whether the text itself got better, so `build` refuses the judge as a training reward.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rewards.exact_match import exact_match
from rewards.model_files import model_file
from rewards.recogniser import Recogniser
from rewards.reward import Reader


def build_judge(*, threads: int = 1) -> Recogniser:
    """PP-OCRv4 (Apache-2.0, 11 MB) from the rapidocr-onnxruntime package, for evaluation only.

    threads: the recogniser's threads, at least 1. Raises MissingModelError if the package is not installed.
    """
    network = model_file("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", "rapidocr-onnxruntime==1.4.4")
    return Recogniser(network=network, dictionary=None, threads=threads)


@dataclass(frozen=True, slots=True)
class JudgeMatch:
    """1 where the judge reads exactly the prompt's `target`, else 0. For a panel; `rewards.build.build` refuses it."""

    reader: Reader

    name: ClassVar[str] = "judge_exact_match"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    required_metadata: ClassVar[tuple[str, ...]] = ("target",)
    compares: ClassVar[bool] = False

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8."""
        return exact_match(self.reader, images, [str(entry["target"]) for entry in metadata]).astype(np.float32)


def build_judge_match(*, threads: int = 1) -> JudgeMatch:
    """The judge's exact match; threads of its network, at least 1."""
    return JudgeMatch(build_judge(threads=threads))
