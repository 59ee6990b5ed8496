"""A run's settings for TensorBoard's HParams page, which compares runs by them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Experiment, HParamInfo, MetricInfo, MetricName
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

Setting = float | bool | str
BLOCKS = ("seed", "model", "sampling", "rewards", "learning")
"""Of the run file, what changes how a run learns; of `fleet`, only the staleness does."""


def hyperparameters(resolved: Mapping[str, Any]) -> dict[str, Setting]:
    """By dotted key: the settings of a resolved run file that are not null; lists are written as JSON, and a reward's
    settings stand under its name.
    """
    rewards = {entry["name"] or entry["use"]: entry for entry in resolved["rewards"]}
    chosen = {block: resolved[block] for block in BLOCKS} | {"rewards": rewards}
    chosen["fleet"] = {"max_staleness": resolved["fleet"]["max_staleness"]}
    return dict(_leaves(chosen))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Setting]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield prefix + key, json.dumps(value)
        elif value is not None:
            yield prefix + key, value


def summary_of(settings: Mapping[str, Setting], measured: Sequence[str]) -> Summary:
    """What the HParams page reads; `measured` are the tags of the scalars that it sets beside the settings."""
    experiment = Experiment(
        hparam_infos=[HParamInfo(name=key) for key in settings],
        metric_infos=[MetricInfo(name=MetricName(tag=tag)) for tag in measured],
    )
    start = SessionStartInfo()
    for key, value in settings.items():
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, str):
            start.hparams[key].string_value = value
        else:
            start.hparams[key].number_value = value
    parts = {
        metadata.EXPERIMENT_TAG: HParamsPluginData(experiment=experiment),
        metadata.SESSION_START_INFO_TAG: HParamsPluginData(session_start_info=start),
    }
    return Summary(
        value=[
            Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(part), tensor=metadata.NULL_TENSOR)
            for tag, part in parts.items()
        ]
    )
