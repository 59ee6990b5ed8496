"""A fleet without models: threads that draw and score nothing, through the real queue, payloads, heartbeats and leases.

What waits in them are sleeps of given lengths, so that hundreds of workers fit into a few processes. Everything that a
worker does with the server is the worker's own code: WorkLoop, Queue, the blob store, the weights pointer, beats.
SimulatedActor is one of them in a Ray actor, as a run's worker is.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import numpy as np
import torch

from rollout.prompts import load_prompts
from rollout.trained import digest_tensors
from rollout.types import WeightsVersion
from services.config import RunConfig
from services.data.queue import Claimed, new_owner
from services.data.wire import (
    BlobRef,
    GroupEntry,
    RewardColumn,
    ScoredEntry,
    Ticket,
    WireBehaviour,
    WirePrompt,
    WireVersion,
    decode,
    encode,
)
from services.fleet.messages import Link, UpdateOrder, UpdateResult
from services.fleet.supervision.heartbeat import Heart, Pulse, Writer
from services.fleet.workers.stores import Stores, keep_claims, open_stores, start_heart
from services.fleet.workers.work_loop import WorkLoop
from services.observe.journeys import DRAWING, SCORING, TICKET_WAIT

JITTER = 0.2
"""Of every latency, as a share of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """How long the models would take, in seconds, and what they would leave behind, in bytes a sample."""

    draw_s: float
    score_s: float
    update_s: float
    latents_bytes: int
    images_bytes: int
    weights_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """The workers of one process."""

    redis_url: str = field(repr=False)
    config: RunConfig
    slots: tuple[str, ...]
    latencies: Latencies


class SimulatedWorker:
    """One rollout or reward worker; its loop runs in a thread."""

    def __init__(self, crew: Crew, stores: Stores, pulse: Pulse) -> None:
        config, slot = crew.config, pulse.slot
        self.pulse = pulse
        self.owner = new_owner(slot)
        self._slot = slot
        self._stores = stores
        self._latencies = crew.latencies
        self._chance = random.Random(slot)
        behaviour = config.sampling.behaviour()
        self._behaviour = WireBehaviour.of(behaviour)
        self._samples = config.sampling.samples_per_group
        self._steps = tuple(config.steps_scored(behaviour))
        self._prompt = WirePrompt.of(load_prompts(config.sampling.prompts)[0])
        stage, serve = ("tickets", self._draw) if slot.startswith("rollout") else ("groups", self._score)
        self.loop = WorkLoop(stores.queue, stage, self.owner, serve, config.fleet.stall_timeout_s)  # type: ignore[arg-type]
        self.pulse.enter("idle")

    def _wait(self, seconds: float) -> None:
        time.sleep(seconds * self._chance.uniform(1 - JITTER, 1 + JITTER))

    def _put(self, name: str, size_bytes: int) -> tuple[BlobRef, ...]:
        blobs = [os.urandom(64) + bytes(max(0, size_bytes - 64)) for _ in range(self._samples)]
        return self._stores.blobs.put([f"{name}/{index}" for index in range(self._samples)], blobs)

    def _draw(self, claimed: Claimed) -> None:
        ticket = decode(claimed.payload, Ticket)
        name, began = f"{ticket.ordinal}/{ticket.attempt}", time.time()
        with self.pulse.working(name, "drawing", self._samples):
            version = self._stores.weights.latest()
            assert version is not None
            self.pulse.holds(version.version, version.digest)
            self._wait(self._latencies.draw_s)
            entry = GroupEntry(
                ordinal=ticket.ordinal,
                attempt=ticket.attempt,
                prompt=self._prompt,
                behaviour=self._behaviour,
                weights=WireVersion.of(version),
                transitions=(0,),
                diversity=(1.0,),
                image_steps=self._steps,
                latents=self._put(f"{name}/latents", self._latencies.latents_bytes),
                images=self._put(f"{name}/images", self._latencies.images_bytes),
                producer=self._slot,
                created_ms=time.time_ns() // 1_000_000,
                timings={
                    "sample": 0.0,
                    "decode": 0.0,
                    TICKET_WAIT: began - ticket.created_ms / 1e3,
                    DRAWING: time.time() - began,
                },
            )
        queue = self._stores.queue
        if not queue.publish("tickets", claimed, encode(entry), ticket.ordinal, ticket.attempt, entry.payload_bytes):
            self._stores.blobs.delete((*entry.latents, *entry.images))

    def _score(self, claimed: Claimed) -> None:
        group, began = decode(claimed.payload, GroupEntry), time.time()
        with self.pulse.working(f"{group.ordinal}/{group.attempt}", "scoring", self._samples):
            self._stores.blobs.get(group.images)
            self._wait(self._latencies.score_s)
            steps = len(self._steps)
            column = RewardColumn(
                name="simulated",
                range=(0.0, 1.0),
                values=[[self._chance.random() for _ in range(steps)] for _ in range(self._samples)],
                scored=[True] * steps,
            )
            entry = ScoredEntry(
                group=group,
                rewards=(column,),
                producer=self._slot,
                scored_ms=time.time_ns() // 1_000_000,
                timings={"score": 0.0, SCORING: time.time() - began},
            )
        queue = self._stores.queue
        if queue.publish("groups", claimed, encode(entry), group.ordinal, group.attempt, entry.payload_bytes):
            self._stores.blobs.delete(group.images)


class SimulatedActor:
    """One worker in a process of its own, which beats and renews its leases as a real one's does."""

    def __init__(self, crew: Crew, slot: str) -> None:
        link = Link(redis_url=crew.redis_url, run=crew.config.name, slot=slot)
        pulse = start_heart(link, crew.config)
        self._worker = SimulatedWorker(crew, open_stores(link, crew.config), pulse)
        self._claims = keep_claims(link, crew.config, self._worker.owner)

    def run(self) -> None:
        """Work until the run is told to stop."""
        with self._claims:
            self._worker.loop.run()

    def leave(self) -> None:
        """End the loop behind the group in hand."""
        self._worker.loop.leave()


def run_crew(crew: Crew) -> None:
    """A process's whole life: one thread a worker, one that beats and renews leases for all of them."""
    link = Link(redis_url=crew.redis_url, run=crew.config.name, slot="")
    workers = [SimulatedWorker(crew, open_stores(link, crew.config), Pulse(slot, 0)) for slot in crew.slots]
    threads = [threading.Thread(target=worker.loop.run, name=worker.owner, daemon=True) for worker in workers]
    stores = open_stores(link, crew.config)
    watch, writer = crew.config.fleet.supervision, Writer(stores.redis, link.run)
    for thread in threads:
        thread.start()
    renewed = time.monotonic()
    while any(thread.is_alive() for thread in threads):
        writer.write([worker.pulse for worker in workers])
        if time.monotonic() - renewed > watch.lease_s / 3:
            renewed = time.monotonic()
            for worker in workers:
                stores.queue.renew(worker.owner)
        time.sleep(watch.heartbeat_s)


def run_learner(crew: Crew, orders: Connection) -> None:
    """The learner's process: answers orders until the other end hangs up."""
    link = Link(redis_url=crew.redis_url, run=crew.config.name, slot="learner-0")
    stores, weights = open_stores(link, crew.config), torch.zeros(crew.latencies.weights_bytes // 4)
    pulse = Pulse(link.slot, 0)
    pulse.enter("idle")
    Heart(pulse, stores.redis, link.run, crew.config.fleet.supervision.heartbeat_s)
    done = 0
    with suppress(EOFError, ConnectionError):  # the other end has hung up
        while True:
            what, given = orders.recv()
            started = time.perf_counter()
            if what == "update":
                done += 1
                weights += 1.0
                orders.send(_update(given, stores, weights, done, crew.latencies.update_s, started))
            else:
                version, lineage, epoch = given
                orders.send(_publish(stores, weights, done, version, lineage, epoch))


def _publish(
    stores: Stores, weights: torch.Tensor, update: int, version: int, lineage: int, epoch: int
) -> WeightsVersion:
    tensors = {"weights": weights}
    named = WeightsVersion(version=version, update=update, lineage=lineage, digest=digest_tensors(tensors))
    stores.weights.publish(tensors, named, epoch)
    return named


def _update(
    order: UpdateOrder, stores: Stores, weights: torch.Tensor, done: int, update_s: float, started: float
) -> UpdateResult:
    groups = [decode(entry, ScoredEntry).group for entry in order.entries]
    for group in groups:
        stores.blobs.get(group.latents)
    loaded = time.perf_counter()
    time.sleep(update_s)
    learned = time.perf_counter()
    named = _publish(stores, weights, done, order.version, order.lineage, order.epoch)
    return UpdateResult(
        report={"images": sum(len(group.images) for group in groups), "consumed": [g.ordinal for g in groups]},
        version=named,
        unpublished=False,
        phase_seconds={
            "load": loaded - started,
            "forward_backward": learned - loaded,
            "publish": time.perf_counter() - learned,
        },
        call_seconds=0.0,
    )


def shares(slots: Sequence[str], processes: int) -> list[tuple[str, ...]]:
    """The slots dealt out to so many processes."""
    return [tuple(part.tolist()) for part in np.array_split(np.array(slots, dtype=object), processes)]
