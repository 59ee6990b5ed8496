"""From a name in the run file to a reward. A new reward is one file and one line in the table below."""

from collections.abc import Callable, Mapping
from typing import Any

from rewards.jpeg_size import JpegSize
from rewards.ocr import build_text_rendering
from rewards.options import call_with_options, nearest
from rewards.reward import Reward
from rewards.user_reward import build_user_reward

REWARDS: Mapping[str, Callable[..., Reward]] = {
    "jpeg_size": JpegSize,
    "text_rendering": build_text_rendering,
}

# Readers that evaluate: trained on, they could no longer tell learning from cheating.
HELD_OUT = ("judge",)


def build(name: str, options: Mapping[str, Any]) -> Reward:
    """The reward of that name: one of REWARDS, or a user's own by its import path `package.module:name`.

    options: the run file's options of this reward; its builder's keyword arguments. Raises ValueError for an
    unknown name, a held-out judge, an unknown, missing or invalid option; MissingModelError if a needed
    package is not installed.
    """
    if ":" in name:
        return build_user_reward(name, options)
    if name in HELD_OUT:
        raise ValueError(
            f"expected a reward to train on; found {name!r}, which is held out for evaluation; "
            f"use one of {', '.join(REWARDS)} under rewards[i].use in the run file"
        )
    if name not in REWARDS:
        raise ValueError(
            f"unknown reward {name!r}; did you mean {nearest(name, list(REWARDS))!r}? "
            f"There are: {', '.join(REWARDS)}, and your own as 'package.module:name'; "
            "change it under rewards[i].use in the run file"
        )
    return call_with_options(REWARDS[name], options, name)
