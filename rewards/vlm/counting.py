"""Are there as many things in the picture as there should be?

The counting questions of GenEval, Ghosh et al., "GenEval: an object-focused framework for evaluating text-to-image
alignment" (2310.11513), put to a judge instead of a detector: the prompt's metadata say how many of what,

    {"text": "two cats and a dog", "metadata": {"counts": {"cat": 2, "dog": 1}}}

and the score is the share of kinds whose number is right. Higher is better. Cost: one question per image and kind.
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

MAX_COUNT = 1000
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}},
    "required": ["count"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Counting:
    """The share of kinds whose number is right."""

    judge: Judge
    template: Template

    name: ClassVar[str] = "vlm_counting"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    required_metadata: ClassVar[tuple[str, ...]] = ("counts",)
    compares: ClassVar[bool] = False

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8; raises ValueError where `counts` is no such mapping."""
        wanted = [_counts(place, entry) for place, entry in enumerate(metadata)]
        urls = [data_url(image, self.judge.pictures) for image in images]
        questions = [
            Question(text=self.template.substitute(object=kind), pictures=(url,), schema=SCHEMA)
            for url, counts in zip(urls, wanted, strict=True)
            for kind in counts
        ]
        found = iter(self.judge.ask(questions, lambda body: read_numbers(body, ("count",), 0, MAX_COUNT)[0]))
        scores = [sum(next(found) == count for count in counts.values()) / len(counts) for counts in wanted]
        return np.array(scores, dtype=np.float32)


def build_counting(*, judge: Mapping[str, Any], template: str | None = None) -> Counting:
    """The reward.

    judge: url, model and the other options of rewards.vlm.chat.build_judge. template: a file with $object in it that
    asks for the key "count"; None = templates/counting.txt.
    """
    words = load_template("counting", template, ("object",))
    return Counting(call_with_options(build_judge, judge, "vlm_counting, judge"), words)


def _counts(place: int, entry: Mapping[str, Any]) -> Mapping[str, int]:
    counts = entry.get("counts")
    if not isinstance(counts, Mapping) or not counts or any(type(count) is not int for count in counts.values()):
        raise ValueError(
            f"reward 'vlm_counting': expected metadata 'counts' at prompt {place} to be whole numbers by name; "
            f"found {counts!r}; change it in the prompt file"
        )
    return counts
