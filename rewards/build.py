"""From a name in the run file to a reward. A new reward is one file and one line in the table below.

Another package's rewards are found by name, too: it lists them as entry points of the group `tafs.rewards`.
"""

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from rewards.options import call_with_options, check_options, nearest
from rewards.reward import MissingModelError, Reward
from rewards.user_reward import build_user_reward, wrap_user_reward

REWARDS: Mapping[str, str] = {
    "aesthetic": "rewards.aesthetic:build_aesthetic",
    "clip_score": "rewards.clip_score:build_clip_score",
    "hps": "rewards.hps:build_hps",
    "image_reward": "rewards.image_reward:build_image_reward",
    "jpeg_size": "rewards.jpeg_size:JpegSize",
    "nsfw": "rewards.nsfw:build_nsfw",
    "pick_score": "rewards.pick_score:build_pick_score",
    "remote": "rewards.remote:build_remote",
    "text_rendering": "rewards.ocr:build_text_rendering",
    "vlm_counting": "rewards.vlm.counting:build_counting",
    "vlm_pairwise": "rewards.vlm.pairwise:build_pairwise",
    "vlm_rubric": "rewards.vlm.rubric:build_rubric",
    "vlm_yes_no": "rewards.vlm.yes_no:build_yes_no",
}
"""Builders by import path: only what a run uses is imported, for some of them need PyTorch and transformers."""

PLUGINS = "tafs.rewards"
"""The group of entry points in which other packages name their rewards. A built-in name cannot be taken."""

# Readers that evaluate: trained on, they could no longer tell learning from cheating.
HELD_OUT = ("judge", "judge_exact_match")


PANEL_ONLY: Mapping[str, str] = {"judge_exact_match": "rewards.judge:build_judge_match"}
"""Only for a panel that watches a run, never to train on."""


def build_held_out(name: str, options: Mapping[str, Any]) -> Reward:
    """A reward for a panel: one of PANEL_ONLY, or any that `build` makes, which raises as that does."""
    if name in PANEL_ONLY:
        return call_with_options(_builder(name, PANEL_ONLY[name]), options, name)
    return build(name, options)


def build(name: str, options: Mapping[str, Any]) -> Reward:
    """The reward of that name: one of REWARDS, a plugin's, or a user's own by its import path `package.module:name`.

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
    if name in REWARDS:
        return call_with_options(_builder(name, REWARDS[name]), options, name)
    plugins = {entry.name: entry for entry in importlib.metadata.entry_points(group=PLUGINS)}
    if name in plugins:
        return wrap_user_reward(name, _loaded(plugins[name]), options)
    known = [*REWARDS, *sorted(plugins)]
    raise ValueError(
        f"unknown reward {name!r}; did you mean {nearest(name, known)!r}? "
        f"There are: {', '.join(known)}, and your own as 'package.module:name'; "
        "change it under rewards[i].use in the run file"
    )


def look_at(build_it: Callable[[str, Mapping[str, Any]], Reward], name: str, options: Mapping[str, Any]) -> Reward:
    """What can be known of a reward where it may not be built: for one of REWARDS that computes on another device than
    the CPU its class, whose name, range and required_metadata are the reward's; any other reward is built.

    build_it: `build` or `build_held_out`. Raises as that does.
    """
    if name not in REWARDS or str(options.get("device", "cpu")) == "cpu":
        return build_it(name, options)
    builder = _builder(name, REWARDS[name])
    check_options(builder, options, name)
    return cast(Reward, inspect.signature(builder).return_annotation)


def _builder(name: str, path: str) -> Callable[..., Reward]:
    module, _, attribute = path.partition(":")
    try:
        builder: Callable[..., Reward] = vars(importlib.import_module(module))[attribute]
    except ModuleNotFoundError as error:
        raise MissingModelError(
            f"reward {name!r}: expected the package {error.name!r}; found none; install it with pip"
        ) from error
    return builder


def _loaded(entry: importlib.metadata.EntryPoint) -> object:
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"reward {entry.name!r}: expected {entry.value} of the package {entry.dist and entry.dist.name!r}; "
            f"found: {error}; mend or uninstall that package"
        ) from error
