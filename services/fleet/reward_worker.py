"""Scores groups: images -> every reward on its steps, side by side -> the queue."""

from __future__ import annotations

from services.config import RunConfig
from services.data.codec import decode_images
from services.data.queue import Claimed
from services.data.wire import GroupEntry, decode, encode
from services.fleet.build import build_rewards
from services.fleet.messages import Link
from services.fleet.rollout_worker import CLAIM_BLOCK_MS
from services.fleet.scoreboard import Scoreboard
from services.fleet.scoring_desk import ScoringDesk
from services.fleet.stores import open_stores


class RewardWorker:
    """One reward worker; owns the scorers."""

    def __init__(self, config: RunConfig, link: Link) -> None:
        self._slot = link.slot
        self._stores = open_stores(link, config)
        self._rewards = build_rewards(config)
        self._desk = ScoringDesk(self._rewards, config.fleet.reward.groups_at_once, self._settle)

    def run(self) -> None:
        """Score groups until the run is told to stop."""
        queue = self._stores.queue
        while not queue.stop_requested():
            for claimed in queue.claim("groups", self._slot, 1, CLAIM_BLOCK_MS):
                self._serve(claimed)
        self._desk.finish()
        self._desk.close()

    def _serve(self, claimed: Claimed) -> None:
        board = Scoreboard(claimed, decode(claimed.payload, GroupEntry), self._rewards)
        try:
            images = decode_images(board.group.image_steps, self._stores.blobs.get(board.group.images))
        except Exception as error:  # the worker's edge: what cannot be read is drawn again
            self._settle(board, error)
            return
        self._desk.take(board, images)

    def _settle(self, board: Scoreboard, error: Exception | None) -> None:
        """Called in the desk's thread. A failed reward is never a zero: the group is drawn again."""
        group, queue = board.group, self._stores.queue
        if error is not None:
            queue.fail("groups", board.claimed, group.ordinal, f"{type(error).__name__}: {error}")
            self._stores.blobs.delete((*group.latents, *group.images))
            return
        entry, name = board.entry(self._slot), (group.ordinal, group.attempt)
        if queue.publish("groups", board.claimed, encode(entry), *name, entry.payload_bytes):
            self._stores.blobs.delete(group.images)
        else:
            self._stores.blobs.delete((*group.latents, *group.images))
