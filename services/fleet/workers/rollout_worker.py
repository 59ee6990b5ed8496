"""Draws groups: ticket -> newest weights -> annealed few-step samples -> payloads -> the queue."""

from __future__ import annotations

import time

import torch

from rollout.lora import MergedAdapter
from rollout.policy import Policy
from rollout.prompts import PromptOrder, load_prompts
from rollout.sampler import diversity
from rollout.trained import digest_tensors, load_tensors, trained_tensors
from rollout.types import WeightsVersion
from services.config import RunConfig
from services.data.codec import encode_images, encode_trajectory
from services.data.queue import Claimed, new_owner
from services.data.wire import GroupEntry, Ticket, WireBehaviour, WirePrompt, WireVersion, decode, encode
from services.errors import BlobError, ServerUnavailable, WeightsCorrupt, WeightsError
from services.fleet.failpoints import failpoint
from services.fleet.messages import EvaluationPart, EvaluationTask, Link
from services.fleet.workers.build import build_policy, use_threads
from services.fleet.workers.evaluation import evaluate
from services.fleet.workers.groups import decode_images_of, draw_group
from services.fleet.workers.stores import keep_claims, open_stores, start_heart
from services.fleet.workers.work_loop import WorkLoop
from services.observe.journeys import DRAWING, TICKET_WAIT

INFRASTRUCTURE = (ServerUnavailable, BlobError, WeightsError)
"""Errors that say nothing about a group: it is drawn again without counting them against it."""


class RolloutWorker:
    """One rollout worker; owns a policy and nothing else that lasts."""

    def __init__(self, config: RunConfig, link: Link) -> None:
        use_threads(config.fleet.rollout.cpus)
        self._pulse = start_heart(link, config)
        self._config = config
        self._slot = link.slot
        self._stores = open_stores(link, config)
        self._policy: Policy = build_policy(config)
        self._merged = MergedAdapter(self._policy.network) if config.fleet.merge_adapter else None
        self._order = PromptOrder(load_prompts(config.sampling.prompts), config.seed)
        self._version: WeightsVersion | None = None

        owner = new_owner(link.slot)
        self._claims = keep_claims(link, config, owner)
        self._loop = WorkLoop(self._stores.queue, "tickets", owner, self._serve, config.fleet.stall_timeout_s)
        self._pulse.enter("built", ready=False)

    def run(self) -> None:
        """Catch up with the learner, then draw groups until the run is told to stop."""
        self._pulse.enter("catching up", ready=False)
        if self._loop.patiently(self._catch_up) is not None:
            self._pulse.enter("idle")
            with self._claims:
                self._loop.run()
        self._pulse.enter("stopped", ready=False)

    def leave(self) -> None:
        """End the loop behind the group in hand."""
        self._loop.leave()

    def evaluate(self, task: EvaluationTask) -> EvaluationPart:
        """Draw and read a share of the evaluation's images with the weights it names."""
        if task.version is None:
            return evaluate(build_policy(self._config), self._config, task)
        self._load(task.version)
        return evaluate(self._policy, self._config, task)

    def _serve(self, claimed: Claimed) -> None:
        ticket = decode(claimed.payload, Ticket)
        failpoint("rollout.claimed")
        images = self._config.sampling.samples_per_group
        try:
            with self._pulse.working(f"{ticket.ordinal}/{ticket.attempt}", "drawing", images):
                entry = self._draw(ticket)
        except INFRASTRUCTURE as error:
            self._stores.queue.evict(claimed, ticket.ordinal, type(error).__name__, stage="tickets")
            return
        except Exception as error:  # the worker's edge: a group that cannot be drawn must not end the worker
            self._stores.queue.fail("tickets", claimed, ticket.ordinal, f"{type(error).__name__}: {error}")
            return
        name = ticket.ordinal, ticket.attempt
        failpoint("rollout.drawn")
        if not self._stores.queue.publish("tickets", claimed, encode(entry), *name, entry.payload_bytes):
            self._stores.blobs.delete((*entry.latents, *entry.images))
        failpoint("rollout.published")

    def _draw(self, ticket: Ticket) -> GroupEntry:
        began = time.time()
        version = self._catch_up()
        prompt = self._order.at(ticket.ordinal)
        behaviour = self._config.sampling.behaviour_of(ticket.ordinal, version, self._config.seed)
        samples = range(self._config.sampling.samples_per_group)
        started = time.process_time()
        drawn = draw_group(self._policy, prompt, behaviour, len(samples), self._config.seed, ticket.ordinal)
        sampled = time.process_time()
        steps, batch = self._config.steps_scored(behaviour), self._config.model.decode_batch
        images = decode_images_of(self._policy, drawn, behaviour, steps, batch)
        decoded = time.process_time()
        name = f"{ticket.ordinal}/{ticket.attempt}"
        blobs = self._stores.blobs
        latents = blobs.put([f"{name}/latents/{i}" for i in samples], encode_trajectory(drawn.trajectory))
        pixels = blobs.put([f"{name}/images/{i}" for i in samples], encode_images(images))
        ended = time.time()
        return GroupEntry(
            ordinal=ticket.ordinal,
            attempt=ticket.attempt,
            prompt=WirePrompt.of(prompt),
            behaviour=WireBehaviour.of(behaviour),
            weights=WireVersion.of(version),
            transitions=drawn.trajectory.transitions,
            diversity=diversity(drawn.clean),
            image_steps=images.steps,
            latents=latents,
            images=pixels,
            producer=self._slot,
            created_ms=int(ended * 1000),
            timings={
                "sample": sampled - started,
                "decode": decoded - sampled,
                TICKET_WAIT: began - ticket.created_ms / 1e3,
                DRAWING: ended - began,
            },
        )

    def _catch_up(self) -> WeightsVersion:
        """The newest published weights, loaded: a group is never drawn with older ones than were there when its ticket
        was claimed.
        """
        latest = self._stores.weights.latest()
        if latest is None:
            raise WeightsCorrupt("expected published weights before the first ticket, found none")
        self._load(latest)
        return latest

    def _load(self, version: WeightsVersion) -> None:
        if self._version == version:
            return
        if self._version is not None and self._version.digest == version.digest:
            self._hold(version)  # published again, by a learner that was replaced
            return
        tensors = self._stores.weights.fetch(version)
        with torch.no_grad():
            load_tensors(self._policy.network, tensors)
        live = digest_tensors(trained_tensors(self._policy.network))
        if live != version.digest:
            self._version = None
            raise WeightsCorrupt(
                f"version {version.version}: expected digest {version.digest[:12]} in the module, found {live[:12]}"
            )
        if self._merged is not None:
            self._merged.refresh()
        self._hold(version)

    def _hold(self, version: WeightsVersion) -> None:
        self._version = version
        self._pulse.holds(version.version, version.digest)
