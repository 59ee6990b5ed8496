"""What a run is measured by, before and after: evaluations kept in the run folder, so that a resumed run has both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from services.config import RunConfig
from services.data.whole_file import write_whole
from services.fleet.messages import EvaluationPart
from services.observe.summary import Evaluation, When

FILE = "evaluations.json"


def evaluated_temperatures(config: RunConfig) -> tuple[float, ...]:
    """The serving temperature, 0 and 1, each once: images of equal temperatures are the same images."""
    return tuple(dict.fromkeys((config.sampling.serving_temperature, 0.0, 1.0)))


def evaluations(config: RunConfig, part: EvaluationPart, when: When) -> list[Evaluation]:
    """The figures of one evaluation: by sampler, exact match by the trained reward's reader and by the judge."""
    samplers = {"serving": config.sampling.serving_temperature, "tau_0": 0.0, "tau_1": 1.0}
    counts = {"exact_match": part.exact, "judge_exact_match": part.judge_exact}
    return [
        Evaluation(
            sampler=sampler, when=when, metric=metric, value=right[temperature] / part.images, images=part.images
        )
        for metric, right in counts.items()
        for sampler, temperature in samplers.items()
    ]


def read_evaluations(folder: Path) -> list[Evaluation]:
    """What has been measured so far."""
    path = folder / FILE
    return msgspec.json.decode(path.read_bytes(), type=list[Evaluation]) if path.exists() else []


def add_evaluations(folder: Path, new: Sequence[Evaluation]) -> list[Evaluation]:
    """Keep new figures; one of the same metric, sampler and time is replaced."""
    kept = {(e.metric, e.sampler, e.when): e for e in [*read_evaluations(folder), *new]}
    write_whole(folder / FILE, msgspec.json.encode(list(kept.values())))
    return list(kept.values())
