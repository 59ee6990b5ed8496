"""A judge's marks, one for each criterion, and their mean.

As in UnifiedReward, Wang et al., "Unified reward model for multimodal understanding and generation" (2503.05236), the
model gives marks; a JSON schema holds it to the criteria and to whole numbers from 1 to 5. The score is the mean mark,
scaled to 0 to 1. Higher is better. Cost: one question per image, with an answer of some tens of tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rewards.options import call_with_options
from rewards.vlm.chat import Judge, Question, build_judge, read_numbers
from rewards.vlm.pictures import data_url
from rewards.vlm.templates import load_template

LOWEST, HIGHEST = 1, 5
CRITERIA = ("alignment", "coherence", "style")


@dataclass(frozen=True, slots=True)
class Rubric:
    """The mean mark, 0 where all are the lowest and 1 where all are the highest."""

    judge: Judge
    template: Template
    criteria: tuple[str, ...]

    name: ClassVar[str] = "vlm_rubric"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    required_metadata: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[bool] = False

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8."""
        questions = [self._question(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        marks = self.judge.ask(questions, lambda body: read_numbers(body, self.criteria, LOWEST, HIGHEST))
        means = np.array(marks, dtype=np.float32).reshape(len(images), len(self.criteria)).mean(axis=1)
        scores: NDArray[np.float32] = (means - LOWEST) / np.float32(HIGHEST - LOWEST)
        return scores

    def _question(self, image: NDArray[np.uint8], prompt: str) -> Question:
        mark = {"type": "integer", "minimum": LOWEST, "maximum": HIGHEST}
        return Question(
            text=self.template.substitute(
                prompt=prompt, criteria=", ".join(self.criteria), lowest=LOWEST, highest=HIGHEST
            ),
            pictures=(data_url(image, self.judge.pictures),),
            schema={
                "type": "object",
                "properties": dict.fromkeys(self.criteria, mark),
                "required": list(self.criteria),
                "additionalProperties": False,
            },
        )


def build_rubric(
    *, judge: Mapping[str, Any], template: str | None = None, criteria: Sequence[str] = CRITERIA
) -> Rubric:
    """The reward.

    judge: url, model and the other options of rewards.vlm.chat.build_judge. template: a file with $prompt, $criteria,
    $lowest and $highest; None = templates/rubric.txt. criteria: the names of the marks.
    """
    if isinstance(criteria, str) or not criteria or len(set(criteria)) != len(criteria):
        raise ValueError(f"reward 'vlm_rubric': expected different criteria in a list; found {criteria!r}")
    words = load_template("rubric", template, ("prompt", "criteria", "lowest", "highest"))
    return Rubric(call_with_options(build_judge, judge, "vlm_rubric, judge"), words, tuple(criteria))
