"""One rank of the learner: entries in, one update, weights out.

Every rank gets the same entries, in the same order. Rank 0 alone writes: weights to the store, checkpoints and the
adapter to the run folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from learner.checkpoint import Checkpoint, load_latest, save_checkpoint
from learner.ranks import Alone, Ranks, TorchRanks
from rollout.trained import digest_tensors
from rollout.types import ScoredGroup, WeightsVersion
from services.config import RunConfig
from services.data.wire import ScoredEntry, decode
from services.errors import CheckpointFailed, RunMissing, ServerUnavailable
from services.fleet.failpoints import failpoint
from services.fleet.messages import (
    EvaluationPart,
    EvaluationTask,
    Link,
    LookPart,
    LookTask,
    Progress,
    RankPlace,
    Restored,
    Strip,
    UpdateOrder,
    UpdateResult,
)
from services.fleet.planning.placement import GIB
from services.fleet.planning.run_folder import config_digest
from services.fleet.workers.build import build_learner, build_policy, digests, use_threads
from services.fleet.workers.evaluation import draw_strips, evaluate
from services.fleet.workers.panel import Panel
from services.fleet.workers.recording import Recording, Recordings
from services.fleet.workers.scored import scored_group
from services.fleet.workers.stores import open_stores, start_heart


class LearnerWorker:
    """One rank; owns policy, optimizer and average."""

    def __init__(self, config: RunConfig, link: Link, place: RankPlace) -> None:
        use_threads(config.fleet.learner.cpus)
        self._pulse = start_heart(link, config)
        self._config = config
        self._rank = place.rank
        self._stores = open_stores(link, config)
        self._policy = build_policy(config)
        self._ranks: Ranks = Alone()
        if place.size > 1:
            backend = "nccl" if config.fleet.learner.gpus else "gloo"
            self._ranks = TorchRanks(place.init_method, place.rank, place.size, backend, place.timeout_s)
        self._learner = build_learner(config, self._policy, self._ranks)
        self._panel: Panel | None = None
        record = config.fleet.record if place.rank == 0 else None
        self._recordings = None
        if record is not None:
            self._recordings = Recordings(config.folder, record.updates, record.max_gib * GIB)
        self._pulse.enter("idle")

    def restore(self, folder: Path | str) -> Restored:
        """Go on from the newest sound checkpoint. CheckpointFailed where its place does not answer."""
        with _reaching(folder):
            found = load_latest(folder)
        if found is None:
            return Restored(progress=None, digest=digest_tensors(self._learner.parameters), complaints=())
        checkpoint, complaints = found
        progress = msgspec.convert(checkpoint.state["progress"], Progress)
        self._learner.load(checkpoint.tensors, progress.update)
        return Restored(
            progress=progress,
            digest=digest_tensors(self._learner.parameters),
            config=checkpoint.state["config_digest"],
            complaints=tuple(complaints),
        )

    def publish(self, version: int, lineage: int, epoch: int) -> WeightsVersion:
        """Publish the live weights under a new version."""
        return self._publish(self._learner.parameters, version, lineage, epoch)

    def publish_average(self, version: int, lineage: int, epoch: int) -> WeightsVersion:
        """Publish the average, which is what is evaluated and saved."""
        return self._publish(self._learner.average.tensors, version, lineage, epoch)

    def _publish(self, tensors: Mapping[str, torch.Tensor], version: int, lineage: int, epoch: int) -> WeightsVersion:
        named = self._name(tensors, version, lineage)
        if self._rank == 0:
            self._stores.weights.publish(tensors, named, epoch)
        self._pulse.holds(named.version, named.digest)
        return named

    def _name(self, tensors: Mapping[str, torch.Tensor], version: int, lineage: int) -> WeightsVersion:
        return WeightsVersion(
            version=version,
            update=self._learner.updates_done,
            lineage=lineage,
            digest=digest_tensors(tensors),
            temperatures=self._learner.temperatures,
        )

    def update(self, order: UpdateOrder) -> UpdateResult:
        """One update, published as the order says. Raises RatioGuardError before anything is changed."""
        with self._pulse.working(f"update {self._learner.updates_done + 1}", "updating"):
            return self._update(order)

    def _update(self, order: UpdateOrder) -> UpdateResult:
        failpoint("learner.ordered")
        started = time.perf_counter()
        groups, complaints = self._load(order)
        loaded, cpu = time.perf_counter(), time.process_time()
        checked = self._check_one(groups) if order.check_one else None
        report = self._learner.update(groups, guard=order.fresh)
        learned, cpu = time.perf_counter(), time.process_time() - cpu
        failpoint("learner.stepped")
        unpublished = False
        try:
            version = self.publish(order.version, order.lineage, order.epoch)
        except (ServerUnavailable, RunMissing):  # the update stays: it must not be trained twice
            version, unpublished = self._name(self._learner.parameters, order.version, order.lineage), True
        failpoint("learner.published")
        phases = {
            "load": loaded - started,
            "forward_backward": learned - loaded,
            "publish": time.perf_counter() - learned,
        }
        return UpdateResult(
            report=msgspec.to_builtins(report if checked is None else replace(report, guard_drift=checked)),
            version=version,
            unpublished=unpublished,
            phase_seconds=phases,
            call_seconds=cpu,
            complaints=complaints,
        )

    def _load(self, order: UpdateOrder) -> tuple[list[ScoredGroup], tuple[str, ...]]:
        """The order's groups, recorded on their way where the run file asks for it, and what went wrong with that: an
        update does not fail because it cannot be recorded.
        """
        if self._recordings is None:
            return list(self._groups(order)), ()
        number = self._learner.updates_done + 1
        header = Recording(
            update=number,
            version=order.version,
            lineage=order.lineage,
            config=config_digest(self._config),
            ranks=self._ranks.size,
            fresh=order.fresh,
            before=digests(self._learner),
            entries=order.entries,
        )
        try:
            with self._recordings.write(header) as recording:
                groups = list(self._groups(order, recording.add))
            self._recordings.tidy(number)
        except OSError as error:
            return list(self._groups(order)), (f"update {number} is not recorded: {error}",)
        return groups, ()

    def _groups(
        self, order: UpdateOrder, seen: Callable[[Sequence[bytes]], None] = lambda payloads: None
    ) -> Iterator[ScoredGroup]:
        for entry in (decode(entry, ScoredEntry) for entry in order.entries):
            payloads = self._stores.blobs.get(entry.group.latents)
            seen(payloads)
            yield scored_group(entry, payloads, self._config)

    def _check_one(self, groups: Sequence[ScoredGroup]) -> float:
        """The ratio guard in an asynchronous run: the oldest group, recomputed with the weights that drew it."""
        oldest = min(groups, key=lambda group: group.group.weights.update)
        return self._learner.check_group(oldest, self._stores.weights.fetch(oldest.group.weights))

    def save(self, folder: Path | str, progress: Progress, config_digest: str) -> None:
        """Write a checkpoint (rank 0). CheckpointFailed where its place has no room, or does not answer."""
        assert progress.update == self._learner.updates_done, f"{progress.update} != {self._learner.updates_done}"
        if self._rank == 0:
            state: dict[str, Any] = {"progress": msgspec.to_builtins(progress), "config_digest": config_digest}
            keep = self._config.learning.keep_checkpoints
            with _reaching(folder):
                save_checkpoint(folder, progress.update, Checkpoint(self._learner.tensors(), state), keep, failpoint)

    def save_trained(self, folder: Path) -> None:
        """Write the average as stock diffusers loads it (rank 0)."""
        if self._rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            with self._learner.holding(self._learner.average.tensors):
                self._policy.save_trained(folder)

    def strips(self) -> tuple[Strip, ...]:
        """The image strips of the average as it is now."""
        with self._learner.holding(self._learner.average.tensors):
            return draw_strips(self._policy, self._config)

    def look(self, task: LookTask) -> LookPart:
        """The rank's share of a look of the held-out panel at the average as it is now."""
        if self._panel is None:
            self._panel = Panel(self._config)
        with self._learner.holding(self._learner.average.tensors):
            return self._panel.look(self._policy, lambda: build_policy(self._config), task)

    def evaluate(self, task: EvaluationTask) -> EvaluationPart:
        """The rank's share of an evaluation, with the average, or the weights before training."""
        if task.version is None:
            return evaluate(build_policy(self._config), self._config, task)
        with self._learner.holding(self._learner.average.tensors):
            return evaluate(self._policy, self._config, task)


@contextmanager
def _reaching(folder: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointFailed(f"checkpoints at {folder} (fleet.checkpoints): {error}") from error
