"""Scores groups: images -> every reward on its steps, side by side -> the queue."""

from __future__ import annotations

from contextlib import suppress

from services.config import RunConfig
from services.data.codec import decode_images
from services.data.queue import Claimed, new_owner
from services.data.wire import BlobRef, GroupEntry, decode, encode
from services.errors import BlobError, ServerUnavailable
from services.fleet.failpoints import failpoint
from services.fleet.messages import Link
from services.fleet.workers.placed_rewards import build_rewards
from services.fleet.workers.scoreboard import Scoreboard
from services.fleet.workers.scoring_desk import ScoringDesk
from services.fleet.workers.stores import keep_claims, open_stores, start_heart
from services.fleet.workers.work_loop import WorkLoop


class RewardWorker:
    """One reward worker; owns the scorers."""

    def __init__(self, config: RunConfig, link: Link) -> None:
        self._pulse = start_heart(link, config)
        self._slot = link.slot
        self._stores = open_stores(link, config)
        self._rewards = build_rewards(config)
        self._desk = ScoringDesk(self._rewards, config.fleet.reward.groups_at_once, self._settle)
        owner = new_owner(link.slot)
        self._claims = keep_claims(link, config, owner)
        self._loop = WorkLoop(self._stores.queue, "groups", owner, self._serve, config.fleet.stall_timeout_s)
        self._pulse.enter("built", ready=False)

    def run(self) -> None:
        """Score groups until the run is told to stop."""
        self._pulse.enter("idle")
        with self._claims:
            self._loop.run()
            self._desk.finish()
        self._desk.close()
        self._pulse.enter("stopped", ready=False)

    def leave(self) -> None:
        """End the loop behind the groups in hand."""
        self._loop.leave()

    def _serve(self, claimed: Claimed) -> None:
        group = decode(claimed.payload, GroupEntry)
        failpoint("reward.claimed")
        board = Scoreboard(claimed, group, self._rewards)
        self._pulse.take(claimed.entry_id, f"{group.ordinal}/{group.attempt}", "scoring")
        try:
            images = decode_images(group.image_steps, self._stores.blobs.get(group.images))
        except ServerUnavailable:  # it is served again when the server is back
            self._pulse.settle(claimed.entry_id)
            raise
        except Exception as error:  # the worker's edge: what cannot be read is drawn again
            self._settle(board, error)
            return
        self._desk.take(board, images)

    def _settle(self, board: Scoreboard, error: Exception | None) -> None:
        """Called in the desk's thread. A failed reward is never a zero: the group is drawn again."""
        self._pulse.tells(self._desk.tallies())
        if error is None:
            entry = board.entry(self._slot)
            self._hand_on(board, encode(entry), entry.payload_bytes)
            self._pulse.settle(board.claimed.entry_id, groups=1, images=len(board.group.images))
        else:
            self._give_back(board, error)
            self._pulse.settle(board.claimed.entry_id)

    def _hand_on(self, board: Scoreboard, entry: bytes, payload_bytes: int) -> None:
        queue, group = self._stores.queue, board.group
        name = group.ordinal, group.attempt
        failpoint("reward.scored")
        if self._loop.patiently(lambda: queue.publish("groups", board.claimed, entry, *name, payload_bytes)):
            failpoint("reward.published")
            self._drop(group.images)
        # A claim that was lost is another worker's now, and with it the blobs.

    def _give_back(self, board: Scoreboard, error: Exception) -> None:
        queue, group, claimed = self._stores.queue, board.group, board.claimed
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, BlobError):  # nothing that the group did
            kind = type(error).__name__
            fate = self._loop.patiently(lambda: queue.evict(claimed, group.ordinal, kind, stage="groups"))
        else:
            fate = self._loop.patiently(lambda: queue.fail("groups", claimed, group.ordinal, reason))
        if fate not in (None, "gone"):
            self._drop((*group.latents, *group.images))

    def _drop(self, blobs: tuple[BlobRef, ...]) -> None:
        with suppress(BlobError, ServerUnavailable):  # the sweeper finds what is left
            self._stores.blobs.delete(blobs)
