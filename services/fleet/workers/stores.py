"""A worker's connections to its run."""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis

from services.config import RunConfig
from services.data.blobs import BlobStore, build_blobs
from services.data.lease import Heartbeat
from services.data.queue import Queue
from services.data.server import connect
from services.data.weights import WeightsStore
from services.fleet.messages import Link
from services.fleet.supervision.heartbeat import Heart, Pulse


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """A worker's connections."""

    redis: Redis
    queue: Queue
    blobs: BlobStore
    weights: WeightsStore


def open_stores(link: Link, config: RunConfig) -> Stores:
    """Connect. Enough weights versions are kept for every group that may still be trained."""
    redis = connect(link.redis_url)
    return Stores(
        redis=redis,
        queue=Queue(redis, link.run),
        blobs=build_blobs(config.fleet.blobs, redis, link.run),
        weights=WeightsStore(redis, link.run, keep=config.fleet.max_staleness + 2),
    )


def keep_claims(link: Link, config: RunConfig, owner: str) -> Heartbeat:
    """Renews what the owner has claimed for the time of the context, through a client of its own."""
    return Heartbeat(Queue(connect(link.redis_url), link.run), owner, config.fleet.supervision.lease_s)


def start_heart(link: Link, config: RunConfig) -> Pulse:
    """The pulse of a worker whose heart beats from now to the end of its process."""
    pulse = Pulse(link.slot, link.incarnation)
    Heart(pulse, connect(link.redis_url), link.run, config.fleet.supervision.heartbeat_s)
    return pulse
