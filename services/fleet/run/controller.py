"""The controller: wires the parts, drives them, and never touches a tensor.

      tickets --> [rollout workers] --> groups --> [reward workers] --> scored
         ^                                                                 |  claimed here, headers only
         |  finish_update frees places, admit fills them                   v
      [this loop] <-- report, version -- [learner ranks] <-- order: the entries of one update

    loop             consumes           produces              waits for                  is unblocked by
    rollout worker   a ticket           a group               a ticket                   admit
    reward worker    a group            a scored group        a group                    a rollout's publish
    this loop        scored groups      orders, admissions    groups_per_update groups   a reward worker's publish
    learner rank     an order           a weights version     an order                   this loop

Admission bounds how far the rollouts run ahead; max_staleness 0 *is* synchronous training: no ticket is there before
the weights that its group must be drawn with. Every wait has a deadline; nothing for `stall_timeout_s` ends the run.

A learner that died is replaced from its newest checkpoint. If that holds the very weights of the last update, nothing
was lost: the groups in hand stay and the update is made again. Else the run goes back to the checkpoint, and everything
is drawn anew under a new lineage. Either way a group is trained once in the surviving lineage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

from rollout.types import WeightsVersion
from services.config import RunConfig
from services.data.blobs import BlobStore
from services.data.ledger import Claimed, Ledger, with_ordinals
from services.data.queue import Queue, new_owner
from services.data.wire import BlobRef, ScoredEntry, decode
from services.errors import BlobError, LearnerLost, QueueError, RunMissing, ServerUnavailable, StalledError
from services.fleet.failpoints import failpoint
from services.fleet.messages import Progress, UpdateOrder
from services.fleet.run.admission import Admission
from services.fleet.run.lineage import Lineage
from services.fleet.run.patience import Patience
from services.fleet.run.update_record import all_phases, record_of
from services.fleet.supervision.fleet import Fleet
from services.observe.history import UpdateRecord
from services.observe.journeys import Journey, journey_of

CLAIM_BLOCK_MS = 200
"""How long one claim waits before the loop looks after its workers again."""
CHECK_ONE_EVERY = 10
"""Asynchronous runs put one group in so many updates through the ratio guard."""
REFUSALS = ("WeightsCorrupt", "WeightsMissing")
"""Evictions by workers that could not load the newest weights."""
LOOK_EVERY_S = 1.0
"""Between two looks for such evictions."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A claimed scored group."""

    claimed: Claimed
    entry: ScoredEntry


class Controller:
    """Drives a run from where it stands to its last update, or to the stop sign."""

    def __init__(
        self,
        config: RunConfig,
        fleet: Fleet,
        queue: Queue,
        blobs: BlobStore,
        observe: Callable[[UpdateRecord, Sequence[Journey]], None],
        *,
        checkpoints: Path | str,
        note: Callable[[str], None],
        rolled_back: Callable[[int], None],
    ) -> None:
        """checkpoints: their folder, or its URL. note: tells the operator. rolled_back: told to which update the run
        went back.
        """
        self._rolled_back = rolled_back
        self._checkpoints = checkpoints
        self._owner = new_owner("controller")
        self._note = note
        self._config = config
        self._fleet = fleet
        self._queue = queue
        self._blobs = blobs
        self._patiently = Patience(config.fleet.stall_timeout_s, fleet.keep_server)
        self._admission = Admission(config, queue, self._patiently, note)
        self._observe = observe
        self._waiting: list[Scored] = []
        self._lineage = Lineage(config.fleet.max_staleness)
        self._refusals = 0  # so many were known at the last look
        self._refused = False  # the newest weights, by a worker
        self._stalls_at = 0.0

    @property
    def patience_s(self) -> float:
        """How long workers that are asked to leave may still take."""
        return self._admission.patience_s

    @property
    def epoch(self) -> int:
        """Of this controller's take-over; there is none before begin."""
        assert self._queue.epoch is not None, "begin comes first"
        return self._queue.epoch

    def begin(self, progress: Progress) -> Progress:
        """Write the run's ledger, what is below the frontier and not consumed first, and publish the weights that the
        first groups are drawn with.
        """
        self._waiting = []
        self._patiently(lambda: self._queue.begin(self._ledger(progress)))
        self._lineage.back_to(-1)
        return self._publish(progress)

    def _take_over(self, progress: Progress) -> Progress:
        """Go on with a queue that is ahead of the learner, or behind it. What workers hold stays theirs, and is evicted
        when it is scored if a lost update drew it. Synchronous training takes ordinals in their order, so it draws all
        anew.
        """
        if self._config.fleet.max_staleness == 0:
            return self.begin(progress)
        self._waiting = []
        self._patiently(lambda: self._queue.reconcile(self._ledger(progress)))
        self._lineage.back_to(progress.update)
        return self._publish(progress)

    def _ledger(self, progress: Progress) -> Ledger:
        learning = self._config.learning
        return Ledger(
            groups_per_update=learning.groups_per_update,
            max_staleness=self._config.fleet.max_staleness,
            total_groups=learning.updates * learning.groups_per_update,
            max_groups=self._config.fleet.max_groups or 0,
            max_payload_bytes=self._config.fleet.max_payload_bytes or 0,
            updates_done=progress.update,
            consumed=progress.consumed,
            frontier=max((stop for _, stop in progress.consumed), default=0),
        )

    def _publish(self, progress: Progress) -> Progress:
        """Have the learner's weights published, under a number that no attempt has used before."""
        numbers = count(progress.version + 1)
        named = self._patiently(lambda: self._fleet.publish(next(numbers), progress.lineage, self.epoch, average=False))
        self._lineage.add(named)
        return replace(progress, version=named.version)

    def run(
        self,
        progress: Progress,
        after: Callable[[Progress], None],
        *,
        halt: Callable[[], bool],
        drain: Callable[[], bool],
    ) -> Progress:
        """Update until the run is complete. `after` is called behind every update. Where `halt` says so, the run ends
        at once; where `drain` does, nothing more is dispatched, and it ends when the groups in flight make no update
        any more, or when they took fleet.supervision.drain_timeout_s.
        """
        self._admission.drain = drain

        def stop() -> bool:
            return halt() or self._admission.drained()

        self._patiently(self._admission.admit)
        started = time.monotonic() - progress.run_seconds
        saved_s = 0.0
        while progress.update < self._config.learning.updates and not stop():
            waited = time.monotonic()
            try:
                batch = self._collect(stop)
                if batch is None and self._refused:
                    self._note(f"workers refuse weights version {progress.version}, which are published again")
                    progress = self._publish(progress)
                    self._weights_were_refused()  # until now
                    continue
                if batch is None:
                    break
                spent = {"checkpoint": saved_s, "wait": time.monotonic() - waited}
                before, progress = progress, self._update(progress, batch, spent, started=started)
                saved_s, saving = 0.0, time.monotonic()
                if progress.update > before.update:
                    after(progress)
                saved_s = time.monotonic() - saving
            except LearnerLost as lost:
                progress = self.recover(progress, lost)
            except RunMissing as lost:
                progress = self.recover_queue(progress, lost)
            except ServerUnavailable as error:
                self._note(f"the run waits for its server: {error}")
                self._patiently(self._queue.stop_requested)
        return progress

    def end(self, reason: str) -> None:
        """Have the workers stop behind what they have in hand."""
        self._patiently(lambda: self._queue.request_stop(reason))

    def publish_average(self, progress: Progress, numbers: Iterator[int]) -> WeightsVersion:
        """Have the averaged weights published under the next of these numbers, after the last update."""
        while True:
            try:
                return self._patiently(
                    lambda: self._fleet.publish(next(numbers), progress.lineage, self.epoch, average=True)
                )
            except RunMissing as lost:
                self._note(f"the server lost the run, whose end is written there: {lost}")
                self._patiently(lambda: self._queue.reconcile(self._ledger(progress)))

    def recover_queue(self, progress: Progress, lost: RunMissing) -> Progress:
        """Set a server right that lost its memory, or some of it: the learner has all that is needed."""
        self._note(f"the server lost the run, which goes on there at update {progress.update}: {lost}")
        while True:
            unused = replace(progress, version=progress.version + 1)
            try:
                progress = self._take_over(unused)
                self._patiently(self._admission.admit)
                return progress
            except LearnerLost as error:
                return self.recover(unused, error)
            except RunMissing:  # again
                progress = unused

    def recover(self, progress: Progress, lost: LearnerLost) -> Progress:
        """Replace a learner that died, and go on from where it can; the run's progress from there."""
        self._note(f"the learner is lost: {lost}")
        while True:
            try:
                restored = self._fleet.replace_learner(self._checkpoints)
                found = restored.progress or Progress()
                unused = progress.version + 1  # the lost learner may have published the version behind the last
                if self._lineage.digest(progress.update) == restored.digest and found.update == progress.update:
                    self._note(f"the learner is back at update {progress.update}: nothing was lost")
                    progress = self._publish(replace(progress, version=unused))
                else:
                    self._note(f"the learner is back, and the run with it, at update {found.update}")
                    progress = replace(found, version=unused, lineage=progress.lineage + 1)
                    self._rolled_back(found.update)
                    progress = self._take_over(progress)
                self._patiently(self._admission.admit)
                return progress
            except RunMissing as error:
                return self.recover_queue(progress, error)
            except LearnerLost as again:
                progress = replace(progress, version=progress.version + 1)
                self._note(f"the learner is lost again: {again}")

    def _collect(self, stop: Callable[[], bool]) -> list[Scored] | None:
        """groups_per_update scored groups, rising in their ordinals; None where `stop` came first, or where workers
        have `_refused` the newest weights: what was collected is kept, and if that happens again nothing has moved.
        """
        want = self._config.learning.groups_per_update
        if not self._refused:
            self._stalls_at = time.monotonic() + self._config.fleet.stall_timeout_s
        self._refused, look_at = False, time.monotonic() + LOOK_EVERY_S
        while len(self._waiting) < want:
            for claimed in self._queue.claim("scored", self._owner, want, CLAIM_BLOCK_MS):
                if self._take(claimed):
                    self._stalls_at = time.monotonic() + self._config.fleet.stall_timeout_s
            self._fleet.tick()
            self._admission.admit()  # places that failed groups gave back
            if stop():
                return None
            if time.monotonic() > look_at:
                look_at = time.monotonic() + LOOK_EVERY_S
                self._refused = self._weights_were_refused()
                if self._refused:
                    return None
            if time.monotonic() > self._stalls_at:
                reason = f"no scored group for {self._config.fleet.stall_timeout_s:.0f} s (fleet.stall_timeout_s)"
                stacks = self._fleet.dump_stacks(reason)
                raise StalledError(f"{reason}; stacks in {stacks}; the queue: {self._queue.statistics()}")
        batch, self._waiting = self._waiting[:want], self._waiting[want:]
        return sorted(batch, key=lambda scored: scored.entry.group.ordinal)

    def _weights_were_refused(self) -> bool:
        """Whether a worker could not load the newest weights since this was last asked."""
        evictions = self._queue.statistics().evictions
        before, self._refusals = self._refusals, sum(evictions.get(reason, 0) for reason in REFUSALS)
        return self._refusals > before

    def _take(self, claimed: Claimed) -> bool:
        """Keep a scored group for the next update, unless weights outside the surviving lineage drew it."""
        try:
            entry = decode(claimed.payload, ScoredEntry)
        except QueueError as error:
            reason = str(error)
            self._patiently(lambda: self._queue.fail("scored", claimed, claimed.ordinal, reason))
            return False
        if self._lineage.holds(entry.group.weights):
            self._waiting.append(Scored(claimed, entry))
            return True
        if self._patiently(lambda: self._queue.evict(claimed, claimed.ordinal, "lineage")) != "gone":
            self._drop(entry.group.latents)
        return False

    def _drop(self, latents: Sequence[BlobRef]) -> None:
        with suppress(BlobError, ServerUnavailable):  # the sweeper finds what is left
            self._blobs.delete(latents)

    def _update(
        self, progress: Progress, batch: list[Scored], spent: Mapping[str, float], *, started: float
    ) -> Progress:
        groups = [scored.entry.group for scored in batch]
        ordinals = [group.ordinal for group in groups]
        began = time.time()
        failpoint("driver.collected")
        try:
            result = self._fleet.update(self._order(progress, batch))
        except (LearnerLost, ServerUnavailable):
            self._waiting = [*batch, *self._waiting]
            raise
        except BlobError as error:  # nothing was trained
            self._note(f"groups {ordinals} are drawn again: {error}")
            reason = type(error).__name__
            for scored in batch:
                self._patiently(partial(self._queue.evict, scored.claimed, scored.claimed.ordinal, reason))
            return progress
        ended = time.time()
        for complaint in result.complaints:
            self._note(complaint)
        self._lineage.add(result.version)
        now = Progress(
            update=progress.update + 1,
            version=result.version.version,
            lineage=progress.lineage,
            consumed=with_ordinals(progress.consumed, ordinals),
            run_seconds=time.monotonic() - started,
            images_total=progress.images_total + int(result.report["images"]),
        )
        named = {"update": now.update, "version": now.version, "lineage": now.lineage}
        journeys = [journey_of(scored.entry, **named, began=began, ended=ended) for scored in batch]
        after = self._consume(now, batch, unpublished=result.unpublished)
        now = replace(now, run_seconds=time.monotonic() - started)
        phases = all_phases({**spent, **result.phase_seconds}, now.run_seconds - progress.run_seconds)
        self._observe(record_of(now, [scored.entry for scored in batch], result, phases), journeys)
        return after if after.update != now.update else replace(after, run_seconds=now.run_seconds)

    def _consume(self, now: Progress, batch: list[Scored], *, unpublished: bool) -> Progress:
        """Settle what was trained. Whatever happens to the server meanwhile, the learner is at `now`, and what it has
        trained is never trained again.
        """
        failpoint("driver.trained")
        groups = [scored.entry.group for scored in batch]
        claimed, ordinals = [scored.claimed for scored in batch], [group.ordinal for group in groups]
        try:
            self._patiently(lambda: self._queue.finish_update(now.update, claimed, ordinals))
            if unpublished:
                now = self._publish(now)
            self._patiently(self._admission.admit)
        except RunMissing as lost:
            now = self.recover_queue(now, lost)
        except LearnerLost as lost:
            now = self.recover(now, lost)
        failpoint("driver.consumed")
        self._drop([ref for group in groups for ref in group.latents])
        return now

    def _order(self, progress: Progress, batch: list[Scored]) -> UpdateOrder:
        live = self._lineage.digest(progress.update)
        fresh = all(scored.entry.group.weights.digest == live for scored in batch)
        return UpdateOrder(
            entries=tuple(scored.claimed.payload for scored in batch),
            version=progress.version + 1,
            lineage=progress.lineage,
            epoch=self.epoch,
            fresh=fresh,
            check_one=not fresh and progress.update % CHECK_ONE_EVERY == 0,
        )
