"""Scores groups: images -> every reward on every step that is read -> the queue."""

from __future__ import annotations

import time

from services.config import RunConfig
from services.data.codec import decode_images
from services.data.queue import Claimed
from services.data.wire import GroupEntry, RewardColumn, ScoredEntry, decode, encode
from services.fleet.build import build_rewards
from services.fleet.groups import score_images
from services.fleet.messages import Link
from services.fleet.rollout_worker import CLAIM_BLOCK_MS
from services.fleet.stores import open_stores


class RewardWorker:
    """One reward worker; owns the scorers."""

    def __init__(self, config: RunConfig, link: Link) -> None:
        self._slot = link.slot
        self._stores = open_stores(link, config)
        self._rewards = build_rewards(config)

    def run(self) -> None:
        """Score groups until the run is told to stop."""
        queue = self._stores.queue
        while not queue.stop_requested():
            for claimed in queue.claim("groups", self._slot, 1, CLAIM_BLOCK_MS):
                self._serve(claimed)

    def _serve(self, claimed: Claimed) -> None:
        group = decode(claimed.payload, GroupEntry)
        try:
            entry = self._score(group)
        except Exception as error:  # the worker's edge: a failed reward is never a zero, the group is drawn again
            self._stores.queue.fail("groups", claimed, group.ordinal, f"{type(error).__name__}: {error}")
            self._stores.blobs.delete((*group.latents, *group.images))
            return
        name = group.ordinal, group.attempt
        if self._stores.queue.publish("groups", claimed, encode(entry), *name, entry.payload_bytes):
            self._stores.blobs.delete(group.images)
        else:
            self._stores.blobs.delete((*group.latents, *group.images))

    def _score(self, group: GroupEntry) -> ScoredEntry:
        images = decode_images(group.image_steps, self._stores.blobs.get(group.images))
        started = time.process_time()
        prompt, behaviour = group.prompt.to_prompt(), group.behaviour.to_behaviour()
        columns = tuple(
            RewardColumn.of(score_images(weighted, images, prompt, behaviour)) for weighted in self._rewards
        )
        return ScoredEntry(
            group=group,
            rewards=columns,
            producer=self._slot,
            scored_ms=time.time_ns() // 1_000_000,
            timings={"score": time.process_time() - started},
        )
