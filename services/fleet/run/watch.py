"""Watches a run with its held-out panel: looks when they are due, keeps the best weights, raises the alarm."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from rewards.build import build_held_out
from services.config import RunConfig
from services.fleet.messages import LookPart
from services.observe.hacking import Look, Scale, Verdict, append_look, judge, keep_until

BEST_FOLDER = "best"
"""Checkpoints of the looks that were the best when they were made; the newest of them is the best one."""


class Looker(Protocol):
    """Who holds the weights that are looked at: a fleet, or a run without one."""

    def look(self) -> Sequence[LookPart]:
        """One look at the averaged weights, a part for each rank."""
        ...


class Watch:
    """The looks of a run, from its first start on."""

    def __init__(self, config: RunConfig, folder: Path, update: int) -> None:
        """A run that stands at `update`: later looks were taken back with the updates that they saw."""
        assert config.evaluation is not None
        assert config.evaluation.watch is not None
        self._settings = config.evaluation.watch
        self._scale = scale_of(config)
        self._folder = folder
        self.back_to(update)

    def back_to(self, update: int) -> None:
        """The run went back: later looks were taken back with their updates, and so are the weights kept for them."""
        self._looks = keep_until(self._folder, update)
        for folder in (self._folder / BEST_FOLDER).glob("update_*"):
            if int(folder.name.removeprefix("update_").partition(".")[0]) > update:
                shutil.rmtree(folder)

    def due(self, update: int) -> bool:
        """Whether to look after this update; one that has been looked at is not looked at again."""
        return update % self._settings.every == 0 and update not in {look.update for look in self._looks}

    def look(self, looker: Looker, update: int) -> Look:
        """Look now, and keep what was seen."""
        found = merged(update, looker.look())
        append_look(self._folder, found)
        self._looks.append(found)
        return found

    @property
    def verdict(self) -> Verdict | None:
        """What the looks say; None before the first."""
        return judge(self._looks, self._scale) if self._looks else None

    @property
    def halts(self) -> bool:
        """Whether the run is to end with the weights of its best look."""
        verdict = self.verdict
        return self._settings.stop and verdict is not None and bool(verdict.hacked)


def build_watch(config: RunConfig, folder: Path, update: int) -> Watch | None:
    """The watch of a run that stands at `update`; None where the run file asks for none."""
    if config.evaluation is None or config.evaluation.watch is None:
        return None
    return Watch(config, folder, update)


def scale_of(config: RunConfig) -> Scale:
    """How the run's looks are compared."""
    assert config.evaluation is not None
    watch = config.evaluation.watch
    assert watch is not None
    ranges = {entry.title: build_held_out(entry.use, entry.options).range for entry in watch.panel}
    return Scale(
        widths={name: high - low for name, (low, high) in ranges.items()},
        signs={entry.title: -1.0 if entry.weights[-1][1] < 0 else 1.0 for entry in config.rewards},
        fall=watch.fall,
        looks=watch.looks,
    )


def merged(update: int, shares: Sequence[LookPart]) -> Look:
    """One look of the ranks' shares: rank r has the prompts r, r + n, r + 2 n, ..."""
    count = sum(len(share.parts) for share in shares)
    prompts = [shares[place % len(shares)].parts[place // len(shares)] for place in range(count)]

    def joined(kind: str) -> dict[str, list[float]]:
        return {name: [value for prompt in prompts for value in prompt[kind][name]] for name in prompts[0][kind]}

    statistics: Mapping[str, list[float]] = joined("statistics")
    return Look(
        update=update,
        trained=joined("trained"),
        panel=joined("panel"),
        statistics={name: float(np.mean(values)) for name, values in statistics.items()},
    )
