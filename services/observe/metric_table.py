"""Every Prometheus metric of a run, in one table: its name with the unit, its kind, labels and help.

The collector exposes exactly these; dashboards and alerts may name no other. Every metric also carries the label
`run`. A prompt, a group or a process id is never a label: the number of series depends on the configuration alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "tafs_"
RUN_LABEL = "run"
STALENESS_BUCKETS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Upper ends in updates; the last bucket, +Inf, follows."""

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the table."""

    name: str  # with prefix and unit; a counter ends in _total
    kind: Kind
    labels: tuple[str, ...] = ()  # beside `run`
    help: str


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=PREFIX + name, kind="gauge", labels=labels, help=text)


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=PREFIX + name, kind="counter", labels=labels, help=text)


REDIS_UP = _gauge("redis_up", "1 if the queue's figures could be read at this scrape, 0 if not.")
QUEUE_ENTRIES = _gauge(
    "queue_entries",
    "Groups waiting for a stage: ready (nobody has taken them) or pending (taken, not acknowledged).",
    "stage",
    "state",
)
QUEUE_OLDEST_AGE = _gauge(
    "queue_oldest_entry_age_seconds", "Age of the oldest group that waits for a stage; 0 if none waits.", "stage"
)
GROUPS_IN_FLIGHT = _gauge("groups_in_flight", "Groups dispatched and neither consumed, evicted nor dead.")
GROUPS_DISPATCHED = _counter("groups_dispatched_total", "Groups given out to be sampled.")
GROUPS_CONSUMED = _counter("groups_consumed_total", "Groups learned from.")
GROUPS_EVICTED = _counter("groups_evicted_total", "Groups dropped because their weights were too old.")
GROUPS_DEAD = _counter("groups_dead_lettered_total", "Groups given up after too many failed attempts.")

UPDATES = _counter("updates_total", "Updates made since this process started.")
IMAGES = _counter("images_total", "Images learned from since this process started.")
PHASE_SECONDS = _counter("phase_seconds_total", "Seconds the learner spent in each phase.", "phase")
REWARD_MEAN = _gauge("reward_mean", "Mean reward of the last update at a denoising step.", "reward", "step")
LOSS = _gauge("loss", "Loss of the last update.")
GRAD_NORM = _gauge("grad_norm", "Gradient norm of the last update, before clipping.")
LAST_UPDATE = _gauge("last_update_timestamp_seconds", "When the last update ended, in seconds since 1970.")
WEIGHTS_VERSION = _gauge("weights_version", "The version of the weights that the last update published.")
STALENESS = Metric(
    name=PREFIX + "group_staleness_updates",
    kind="histogram",
    help="How many updates old the weights of a group were when it was learned from.",
)

QUEUE_METRICS = (
    QUEUE_ENTRIES,
    QUEUE_OLDEST_AGE,
    GROUPS_IN_FLIGHT,
    GROUPS_DISPATCHED,
    GROUPS_CONSUMED,
    GROUPS_EVICTED,
    GROUPS_DEAD,
)
"""Read at scrape time; they have no samples while the queue cannot be read."""
LEARNER_METRICS = (
    UPDATES,
    IMAGES,
    PHASE_SECONDS,
    REWARD_MEAN,
    LOSS,
    GRAD_NORM,
    LAST_UPDATE,
    WEIGHTS_VERSION,
    STALENESS,
)
"""Set by every update; gauges have no samples before the first."""
METRICS = (REDIS_UP, *QUEUE_METRICS, *LEARNER_METRICS)
"""The table."""
