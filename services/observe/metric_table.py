"""Every Prometheus metric of a run, in one table: its name with the unit, its kind, labels and help.

The collector exposes exactly these; dashboards and alerts may name no other. Every metric also carries the label
`run`. A prompt, a group or a process id is never a label: the number of series depends on the configuration alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

PREFIX = "tafs_"
RUN_LABEL = "run"
STALENESS_BUCKETS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Upper ends in updates; the last bucket, +Inf, follows."""

RunState = Literal["starting", "evaluating", "training", "finishing"]
RUN_STATES: tuple[RunState, ...] = get_args(RunState)
"""In their order. A run that goes on passes through them again."""
MAX_REASONS = 8
"""Reasons of eviction that get a series of their own; the rest is counted together."""
OTHER_REASON = "other"

SLOT = ("role", "replica")
"""The labels of a worker: its place, which outlives its processes."""

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


REDIS_UP = _gauge("redis_up", "1 if the Redis server answered at this scrape, 0 if not.")
REDIS_SECONDS = _gauge(
    "redis_command_duration_seconds", "Seconds that the Redis server took to tell the queue's figures at this scrape."
)
REDIS_MEMORY = _gauge("redis_memory_used_bytes", "Memory that the Redis server uses, for whomever.")
REDIS_MEMORY_LIMIT = _gauge("redis_memory_limit_bytes", "Memory that the Redis server may use; 0: it has no limit.")
QUEUE_ENTRIES = _gauge(
    "queue_entries",
    "Groups waiting for a stage: ready (nobody has taken them) or pending (taken, not acknowledged).",
    "stage",
    "state",
)
QUEUE_OLDEST_AGE = _gauge(
    "queue_oldest_entry_age_seconds", "Age of the oldest group that stands in a stage; 0 if none does.", "stage"
)
GROUPS_IN_FLIGHT = _gauge("groups_in_flight", "Groups dispatched and neither consumed, evicted nor dead.")
GROUPS_DISPATCHED = _counter("groups_dispatched_total", "Groups given out to be sampled.")
GROUPS_CONSUMED = _counter("groups_consumed_total", "Groups learned from.")
GROUPS_EVICTED = _counter(
    "groups_evicted_total", "Groups given back through no fault of their own, to be drawn again.", "reason"
)
GROUPS_FAILED = _counter(
    "groups_failed_total", "Failed attempts at a stage: tickets fail while sampling, groups while scoring.", "stage"
)
GROUPS_DEAD = _counter("groups_dead_lettered_total", "Groups given up after too many failed attempts.")
GROUPS_DUPLICATED = _counter("groups_duplicated_total", "Results dropped because another worker's came first.")
PAYLOAD = _gauge("payload_bytes", "Bytes of payloads of the groups in flight.")

RUN_INFO = _gauge(
    "run_info",
    "Always 1; what runs, in its labels. `began`, the first of a run's starts, stays the same over all of them.",
    "began",
    "commit",
    "model",
    "advantage",
    "max_staleness",
)
RUN_STATE = _gauge("run_state", "1 for the state that the run is in, 0 for the others.", "state")
RUN_START = _gauge("run_start_timestamp_seconds", "When this process started, in seconds since 1970.")
PLANNED_UPDATES = _gauge("planned_updates", "Updates of the whole run.")
UPDATE = _gauge("update", "The last update of the surviving lineage; of planned_updates.")
UPDATES = _counter("updates_total", "Updates made since this process started.")
IMAGES = _counter("images_total", "Images learned from since this process started.")
NONFINITE_UPDATES = _counter(
    "nonfinite_updates_total", "Updates that left out an optimizer step because its gradients were not finite."
)
PHASE_SECONDS = _counter(
    "phase_seconds_total",
    "Seconds of wall clock in each phase of the training loop; together all of it up to the last update.",
    "phase",
)
CALL_SECONDS = _counter(
    "call_seconds_total", "CPU seconds inside calls of all workers, of update those of the first learner rank.", "call"
)
UPDATE_SECONDS = _gauge("update_duration_seconds", "Seconds of the last update over all its phases, with waiting.")
LAST_UPDATE = _gauge("last_update_timestamp_seconds", "When the last update ended, in seconds since 1970.")
CHECKPOINT_TIME = _gauge(
    "checkpoint_last_success_timestamp_seconds",
    "When this process last wrote a checkpoint, in seconds since 1970; no sample before the first.",
)
CHECKPOINT_SECONDS = _gauge("checkpoint_duration_seconds", "Seconds that writing the last checkpoint took.")
WEIGHTS_VERSION = _gauge("weights_version", "The version of the weights that the last update published.")
MAX_STALENESS = _gauge("max_staleness_updates", "How many updates a group's weights may lie behind.")
MAX_PAYLOAD = _gauge("payload_limit_bytes", "Bytes of payloads that may be in flight; 0: without a bound.")
GROUP_SECONDS = _counter(
    "group_seconds_total",
    "Seconds that the groups learned from spent in each stretch of their way, from admission to the end of the update.",
    "stretch",
)
STALENESS = Metric(
    name=PREFIX + "group_staleness_updates",
    kind="histogram",
    help="How many updates old the weights of a group were when it was learned from.",
)

REWARD = _gauge(
    "reward_value",
    "Reward of the last update's images at a denoising step: mean over all, or spread, the mean standard deviation "
    "within a group; NaN where the step is not scored.",
    "reward",
    "step",
    "stat",
)
ZERO_SPREAD = _gauge(
    "reward_zero_spread_ratio", "Share of the last update's groups whose samples all scored the same.", "reward", "step"
)
REWARD_WEIGHT = _gauge("reward_weight", "Weight of a reward in the last update's sum of advantages.", "reward")
GATE_PASSED = _gauge(
    "reward_gate_passed_ratio",
    "Share of the last update's images at a step that passed the reward's gate; no samples without a gate.",
    "reward",
    "step",
)
LOSS = _gauge("loss", "Loss of the last update.")
GRAD_NORM = _gauge("grad_norm", "Gradient norm of the last update, before clipping.")
TEMPERATURE = _gauge(
    "temperature", "Temperature that the groups of the last update were drawn with at a step, their mean.", "step"
)
LEARNING_RATE = _gauge("learning_rate", "Learning rate of the last update.")
KL = _gauge("kl", "Divergence of the last update from the reference; 0 where it is not asked for.")
CLIPPED = _gauge("clipped_pairs_ratio", "Share of the last update's pairs of sample and step whose ratio was clipped.")
SKIPPED = _gauge("skipped_pairs_ratio", "Share of the last update's pairs left out because their advantage is zero.")
DROPPED = _gauge(
    "dropped_pairs_ratio", "Share of the last update's pairs dropped for too large a drift from the behaviour policy."
)
GUARD_DRIFT = _gauge(
    "guard_drift", "Largest drift, in standard deviations, that the ratio guard last measured; NaN before it was asked."
)
ADVANTAGE_STD = _gauge("advantage_std", "Standard deviation of the last update's advantages at a step.", "step")
DRIFT = _gauge(
    "drift", "Root mean square drift from the behaviour policy at a step, in standard deviations of its noise.", "step"
)
LOG_RATIO_MAX = _gauge(
    "log_ratio_max", "Largest absolute log ratio per dimension in the last update at a step.", "step"
)

LOOK_UPDATE = _gauge("look_update", "The update that the held-out panel last looked at.")
LOOK_SCORE = _gauge(
    "look_score",
    "Mean score of the last look's images, by rewards that are trained and by those of the panel, which are not.",
    "reward",
    "kind",
)
LOOK_STATISTIC = _gauge(
    "look_statistic",
    "Of the last look's images: diversity (root mean square difference within a prompt), base_distance (from the model "
    "before training), saturation, sharpness (mean absolute Laplacian).",
    "statistic",
)
LOOK_FALL = _gauge(
    "look_fall",
    "How far a held-out reward stands below its best look, in widths of its range.",
    "reward",
)
LOOK_HACKED = _gauge(
    "look_hacked", "1 for a held-out reward that fell while a trained one rose, in as many looks as it takes.", "reward"
)

WORKER_STATE = _gauge("worker_state", "1 for the state that a worker is in; no samples of the others.", *SLOT, "state")
WORKER_DEATHS = _counter("worker_deaths_total", "Processes of a slot that died.", *SLOT)
WORKER_DEATHS_FORGIVEN = _counter("worker_deaths_forgiven_total", "Deaths of a slot that were its node's.", *SLOT)
WORKER_SILENCE = _gauge("worker_heartbeat_age_seconds", "Seconds since a worker's last heartbeat.", *SLOT)
WORKER_BUSY = _counter("worker_busy_seconds_total", "Seconds with work in hand, over all processes of a slot.", *SLOT)
WORKER_IDLE = _counter("worker_idle_seconds_total", "Seconds without work, over all processes of a slot.", *SLOT)
WORKER_GROUPS = _counter("worker_groups_total", "Pieces of work done, over all processes of a slot.", *SLOT)
WORKER_IMAGES = _counter("worker_images_total", "Images drawn, scored or learned from, of a slot.", *SLOT)
WORKER_VERSION = _gauge("worker_weights_version", "Version of the verified weights in a worker's module.", *SLOT)
WORKER_GPU = _gauge(
    "worker_gpu_memory_bytes", "Held by PyTorch on a worker's GPUs, cached blocks included; 0 without a GPU.", *SLOT
)
REWARD_CALLS = _counter("reward_calls_total", "Calls of a reward that ended, over all reward workers.", "reward")
REWARD_FAILURES = _counter(
    "reward_call_failures_total", "Calls of a reward that raised, or answered what is no score.", "reward"
)
REWARD_IMAGES = _counter("reward_images_total", "Images that a reward scored.", "reward")
REWARD_SECONDS = _counter("reward_call_seconds_total", "Seconds of wall clock within a reward's calls.", "reward")
REWARD_RETRIES = _counter("reward_call_retries_total", "Tries of a reward's server after the first one.", "reward")
REWARD_BREAKERS = _gauge(
    "reward_breakers_open",
    "Reward workers that do not ask a reward's server just now, for it failed too often.",
    "reward",
)
DIGEST_CONFLICTS = _gauge(
    "weights_digest_conflicts", "Versions that workers hold with different contents; anything but 0 is a fault."
)

QUEUE_METRICS = (
    REDIS_MEMORY,
    REDIS_MEMORY_LIMIT,
    QUEUE_ENTRIES,
    QUEUE_OLDEST_AGE,
    GROUPS_IN_FLIGHT,
    GROUPS_DISPATCHED,
    GROUPS_CONSUMED,
    GROUPS_EVICTED,
    GROUPS_FAILED,
    GROUPS_DEAD,
    GROUPS_DUPLICATED,
    PAYLOAD,
)
"""Read at scrape time; they have no samples while the queue cannot be read."""
RUN_METRICS = (
    RUN_INFO,
    RUN_STATE,
    RUN_START,
    PLANNED_UPDATES,
    MAX_STALENESS,
    MAX_PAYLOAD,
    UPDATES,
    IMAGES,
    NONFINITE_UPDATES,
    PHASE_SECONDS,
    CALL_SECONDS,
    CHECKPOINT_TIME,
    CHECKPOINT_SECONDS,
    STALENESS,
    GROUP_SECONDS,
)
"""Of the process and its updates together."""
UPDATE_METRICS = (
    UPDATE,
    UPDATE_SECONDS,
    LAST_UPDATE,
    WEIGHTS_VERSION,
    REWARD,
    ZERO_SPREAD,
    REWARD_WEIGHT,
    GATE_PASSED,
    LOSS,
    GRAD_NORM,
    TEMPERATURE,
    LEARNING_RATE,
    KL,
    CLIPPED,
    SKIPPED,
    DROPPED,
    GUARD_DRIFT,
    ADVANTAGE_STD,
    DRIFT,
    LOG_RATIO_MAX,
)
"""Of the last update; no samples before the first."""
LOOK_METRICS = (LOOK_UPDATE, LOOK_SCORE, LOOK_STATISTIC, LOOK_FALL, LOOK_HACKED)
"""Of the last look of the held-out panel; no samples before the first."""
WORKER_METRICS = (
    WORKER_STATE,
    WORKER_DEATHS,
    WORKER_DEATHS_FORGIVEN,
    WORKER_SILENCE,
    WORKER_BUSY,
    WORKER_IDLE,
    WORKER_GROUPS,
    WORKER_IMAGES,
    WORKER_VERSION,
    WORKER_GPU,
    REWARD_CALLS,
    REWARD_FAILURES,
    REWARD_IMAGES,
    REWARD_SECONDS,
    REWARD_RETRIES,
    REWARD_BREAKERS,
    DIGEST_CONFLICTS,
)
"""Of the workers, as their heartbeats and the supervisor tell; no samples before the first look."""
METRICS = (REDIS_UP, REDIS_SECONDS, *QUEUE_METRICS, *RUN_METRICS, *UPDATE_METRICS, *LOOK_METRICS, *WORKER_METRICS)
"""The table."""
