"""How often a picture wins against the others that were made for its prompt.

Pref-GRPO, Wang et al., "Pref-GRPO: pairwise preference reward-based GRPO" (2508.20751): within a group, win rates
instead of marks, whose small differences a group's normalisation blows up. Each pair is shown in both orders, for
judges prefer a side; a win counts by its probability, P(A) / (P(A) + P(B)). Higher is better.
Cost: two questions per pair: n (n - 1) for n pictures, or n m with m opponents each.

It `compares`: it takes all pictures of the same prompt together, over all steps that are scored. `tafs serve-reward`
refuses it, for the protocol knows no groups.
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

ALONE = 0.5
"""The score of a picture without an opponent."""


@dataclass(frozen=True, slots=True)
class Pairwise:
    """The mean probability of being preferred."""

    judge: Judge
    template: Template
    opponents: int | None

    name: ClassVar[str] = "vlm_pairwise"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    required_metadata: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[bool] = True

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8."""
        urls = [data_url(image, self.judge.pictures) for image in images]
        matches = [
            match
            for prompt in dict.fromkeys(prompts)
            for match in pairs([place for place, text in enumerate(prompts) if text == prompt], self.opponents)
        ]
        questions = [
            Question(text=self.template.substitute(prompt=prompts[a]), pictures=(urls[left], urls[right]))
            for a, b in matches
            for left, right in ((a, b), (b, a))
        ]
        shares = self.judge.ask(questions, lambda body: read_share(body, "A", "B"))
        wins, played = np.zeros(len(images)), np.zeros(len(images))
        for (a, b), seen_first, seen_second in zip(matches, shares[::2], shares[1::2], strict=True):
            chance = (seen_first + 1.0 - seen_second) / 2.0
            wins[a] += chance
            wins[b] += 1.0 - chance
            played[[a, b]] += 1
        return np.where(played > 0, wins / np.maximum(played, 1), ALONE).astype(np.float32)


def pairs(places: Sequence[int], opponents: int | None) -> list[tuple[int, int]]:
    """Who meets whom, each pair once: everybody, or in a ring the next opponents / 2 on either side."""
    count = len(places)
    reach = count // 2 if opponents is None else min(opponents // 2, count // 2)
    met = {
        (min(i, (i + step) % count), max(i, (i + step) % count)) for step in range(1, reach + 1) for i in range(count)
    }
    return [(places[i], places[j]) for i, j in sorted(met)]


def build_pairwise(*, judge: Mapping[str, Any], template: str | None = None, opponents: int | None = None) -> Pairwise:
    """The reward.

    judge: url, model and the other options of rewards.vlm.chat.build_judge. template: a file with $prompt in it that
    asks for A or B; None = templates/pairwise.txt. opponents: an even number of opponents of each picture; None = all.
    """
    if opponents is not None and (not isinstance(opponents, int) or opponents < 2 or opponents % 2):
        raise ValueError(f"reward 'vlm_pairwise': expected an even number of opponents; found {opponents!r}")
    words = load_template("pairwise", template, ("prompt",))
    return Pairwise(call_with_options(build_judge, judge, "vlm_pairwise, judge"), words, opponents)
