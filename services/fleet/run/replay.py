"""A run's learner alone, over what it consumed: no Ray, no server, no rollouts. For looking into an update.

    checkpoint, or the start  ->  recording n  ->  update n  ->  recording n + 1  ->  ...  ->  the run's checkpoint

Each recording says what the learner held when its update began, so that the first update that ends differently is
found. On the machine of the run, with one rank, all are equal bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from learner.checkpoint import load_checkpoint, saved_updates
from learner.ranks import Alone
from learner.report import UpdateReport
from learner.update import Learner
from rollout.trained import digest_tensors
from services.errors import ConfigError
from services.fleet.messages import Progress
from services.fleet.planning.run_folder import checkpoints_of, config_digest, recorded_config
from services.fleet.workers.build import build_learner, build_policy, digests, use_threads
from services.fleet.workers.recording import RecordedUpdate, read_recording, recorded
from services.fleet.workers.scored import scored_group


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One update, done again."""

    ranks: int  # that the run's learner had
    differs: tuple[str, ...]  # kinds of tensors that are not those of the run when this update began; first to last
    report: UpdateReport


class Replay:
    """A learner that stands behind `at`, and does what is recorded from there on."""

    def __init__(self, folder: Path, first: int | None, last: int | None) -> None:
        """first, last: updates; by default all that are recorded, from the earliest that there is a start for.
        ConfigError where the folder, its recordings or its checkpoints do not allow it.
        """
        self._folder = folder
        self._config = recorded_config(folder)
        self._checkpoints = checkpoints_of(self._config, folder)
        numbers = [number for number, _ in recorded(folder)]
        if not numbers:
            raise ConfigError(
                f"{folder}: expected recordings of its updates, found none; a run keeps them with fleet.record={{}}"
            )
        self._first = self._start(numbers) if first is None else first
        self._last = numbers[-1] if last is None else last
        if not 1 <= self._first <= self._last:
            raise ConfigError(f"expected updates from 1 on in their order, found {self._first} to {self._last}")
        self._recording(self._first)  # before the model is loaded
        start = None if self._first == 1 else self._checkpoint(self._first - 1)
        use_threads(self._config.fleet.learner.cpus)
        self.learner: Learner = build_learner(self._config, build_policy(self._config), Alone())
        if start is not None:
            tensors, progress = start
            self.learner.load(tensors, progress.update)

    @property
    def at(self) -> int:
        """The update that the learner stands behind."""
        return self.learner.updates_done

    def updates(self) -> Iterator[Replayed]:
        """Do every update again. ConfigError where a recording is missing, broken or of another configuration;
        RatioGuardError where the run's own guard would have stopped here.
        """
        for number in range(self._first, self._last + 1):
            found = self._recording(number)
            now = digests(self.learner)
            differs = tuple(kind for kind, digest in found.header.before.items() if now.get(kind) != digest)
            groups = [scored_group(entry, payloads, self._config) for entry, payloads in found.groups]
            report = self.learner.update(groups, guard=found.header.fresh)
            yield Replayed(ranks=found.header.ranks, differs=differs, report=report)

    def distances(self) -> Mapping[str, float] | None:
        """The largest difference from the run's own checkpoint of this update, by kind of tensors; 0.0 only where all
        bits are equal. None where the run has no such checkpoint.
        """
        if self.at not in saved_updates(self._checkpoints):
            return None
        theirs = self._checkpoint(self.at)[0]
        return {kind: distance(tensors, theirs[kind]) for kind, tensors in self.learner.tensors().items()}

    def _start(self, numbers: list[int]) -> int:
        """The earliest recorded update that there is a start for."""
        starts = {0, *saved_updates(self._checkpoints)}
        for number in numbers:
            if number - 1 in starts:
                return number
        have = f"updates {numbers[0]} to {numbers[-1]} recorded, checkpoints of {sorted(starts - {0})}"
        raise ConfigError(f"{self._folder}: expected a checkpoint behind which an update is recorded, found {have}")

    def _checkpoint(self, update: int) -> tuple[Mapping[str, Mapping[str, Tensor]], Progress]:
        try:
            found = load_checkpoint(self._checkpoints, update)
        except ValueError as error:
            have = ", ".join(map(str, saved_updates(self._checkpoints))) or "none"
            raise ConfigError(f"no start behind update {update}: {error}; checkpoints: {have}") from error
        return found.tensors, msgspec.convert(found.state["progress"], Progress)

    def _recording(self, number: int) -> RecordedUpdate:
        found = read_recording(self._folder, number)
        expected, header = config_digest(self._config), found.header
        if (header.update, header.config) != (number, expected):
            raise ConfigError(
                f"{self._folder}: expected the recording of update {number} under configuration {expected[:12]}, found "
                f"one of update {header.update} under {header.config[:12]}; it is another run's, or the code is another"
            )
        return found


def distance(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest difference of two sets of tensors; 0.0 only where names, shapes and all bits are equal."""
    if digest_tensors(ours) == digest_tensors(theirs):
        return 0.0
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
        return float("inf")
    apart = [float((ours[name].double().cpu() - theirs[name].double()).abs().max()) for name in ours]
    return max(*apart, torch.finfo(torch.float64).tiny)  # a difference of bits alone, such as -0.0, is one
