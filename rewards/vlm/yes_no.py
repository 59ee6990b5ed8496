"""How likely a judge says yes to "does this picture show the prompt?".

VQAScore, Lin et al., "Evaluating text-to-visual generation with image-to-text generation" (2404.01291), with the
probability taken over yes and no alone: P(yes) / (P(yes) + P(no)) of the answer's first token. Higher is better.
Cost: one question per image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rewards.options import call_with_options
from rewards.vlm.chat import Judge, Question, build_judge, read_share
from rewards.vlm.pictures import data_url
from rewards.vlm.templates import load_template


@dataclass(frozen=True, slots=True)
class YesNo:
    """A probability."""

    judge: Judge
    template: Template

    name: ClassVar[str] = "vlm_yes_no"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    required_metadata: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[bool] = False

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8."""
        questions = [
            Question(text=self.template.substitute(prompt=prompt), pictures=(data_url(image, self.judge.pictures),))
            for image, prompt in zip(images, prompts, strict=True)
        ]
        return np.array(self.judge.ask(questions, lambda body: read_share(body, "yes", "no")), dtype=np.float32)


def build_yes_no(*, judge: Mapping[str, Any], template: str | None = None) -> YesNo:
    """The reward.

    judge: url, model and the other options of rewards.vlm.chat.build_judge. template: a file with $prompt in it that
    asks for yes or no; None = templates/yes_no.txt.
    """
    words = load_template("yes_no", template, ("prompt",))
    return YesNo(call_with_options(build_judge, judge, "vlm_yes_no, judge"), words)
