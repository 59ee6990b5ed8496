"""What the metrics of a run are read from, as samples by metric: pure functions behind the collector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rewards.tally import Tally
from services.observe import metric_table as table
from services.observe.hacking import Look, Verdict
from services.observe.history import ReportFigures, UpdateRecord
from services.observe.metric_table import Metric
from services.observe.workers import WorkerFigures

Samples = Sequence[tuple[tuple[str, ...], float]]
"""Label values in the table's order, and the number."""
Cells = dict[Metric, Samples]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """What waits for one stage."""

    entries: int  # groups that nobody has taken
    pending: int  # groups taken and not acknowledged
    oldest_age_s: float  # seconds since the oldest of both was added; 0: nothing waits
    failures: int  # attempts that failed here


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFigures:
    """The queue at one moment; totals run over the whole run."""

    stages: Mapping[str, StageFigures]
    evictions: Mapping[str, int]  # by reason
    dispatched: int
    consumed: int
    dead: int
    duplicates: int
    in_flight: int
    memory_used_bytes: int | None = None  # of the server; None: it does not tell
    memory_limit_bytes: int = 0  # 0: it has none
    payload_bytes: int = 0  # of the groups in flight


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is known of a run when its process starts."""

    started: float  # seconds since 1970
    began: str  # ISO 8601: the first of all its starts
    planned_updates: int
    commit: str
    model: str
    advantage: str  # the mode
    max_staleness: int  # in updates
    max_payload_bytes: int = 0  # 0: no bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint that was written."""

    unix_time: float  # seconds since 1970, when it was complete
    seconds: float  # that it took


def queue_cells(figures: QueueFigures, reasons: Sequence[str]) -> Cells:
    """The queue's samples. `reasons`: the reasons of eviction with a series of their own, see `known_reasons`."""
    stages = figures.stages.items()
    others = sum(count for reason, count in figures.evictions.items() if reason not in reasons)
    evicted = [((reason,), figures.evictions.get(reason, 0)) for reason in reasons]
    used, limit = figures.memory_used_bytes, figures.memory_limit_bytes
    return {
        table.REDIS_MEMORY: [] if used is None else [((), used)],
        table.REDIS_MEMORY_LIMIT: [] if used is None else [((), limit)],
        table.QUEUE_ENTRIES: [
            cell
            for stage, entry in stages
            for cell in (((stage, "ready"), float(entry.entries)), ((stage, "pending"), float(entry.pending)))
        ],
        table.QUEUE_OLDEST_AGE: [((stage,), entry.oldest_age_s) for stage, entry in stages],
        table.GROUPS_IN_FLIGHT: [((), figures.in_flight)],
        table.GROUPS_DISPATCHED: [((), figures.dispatched)],
        table.GROUPS_CONSUMED: [((), figures.consumed)],
        table.GROUPS_EVICTED: [*evicted, ((table.OTHER_REASON,), others)],
        table.GROUPS_FAILED: [((stage,), entry.failures) for stage, entry in stages],
        table.GROUPS_DEAD: [((), figures.dead)],
        table.GROUPS_DUPLICATED: [((), figures.duplicates)],
        table.PAYLOAD: [((), figures.payload_bytes)],
    }


def known_reasons(known: Sequence[str], found: Mapping[str, int]) -> tuple[str, ...]:
    """`known` and the new ones of `found`, at most MAX_REASONS: who has a series keeps it, whoever comes later."""
    fresh = sorted(reason for reason in found if reason not in known and reason != table.OTHER_REASON)
    return (*known, *fresh)[: table.MAX_REASONS]


def fact_cells(facts: RunFacts, state: table.RunState) -> Cells:
    """The samples of what was known at the start, and of the state."""
    about = (facts.began, facts.commit, facts.model, facts.advantage, str(facts.max_staleness))
    return {
        table.RUN_INFO: [(about, 1.0)],
        table.RUN_STATE: [((name,), float(name == state)) for name in table.RUN_STATES],
        table.RUN_START: [((), facts.started)],
        table.PLANNED_UPDATES: [((), facts.planned_updates)],
        table.MAX_STALENESS: [((), facts.max_staleness)],
        table.MAX_PAYLOAD: [((), facts.max_payload_bytes)],
    }


def saved_cells(saved: Saved) -> Cells:
    """The last checkpoint's samples."""
    return {table.CHECKPOINT_TIME: [((), saved.unix_time)], table.CHECKPOINT_SECONDS: [((), saved.seconds)]}


def worker_cells(workers: Sequence[WorkerFigures], since_s: float) -> Cells:
    """The workers' samples; since_s: seconds since they were looked at."""

    def every(read: Callable[[WorkerFigures], float], among: Sequence[WorkerFigures] = workers) -> Samples:
        return [((worker.role, worker.replica), read(worker)) for worker in among]

    held = {(worker.version, worker.digest) for worker in workers if worker.version}
    return {
        table.WORKER_STATE: [((worker.role, worker.replica, worker.state), 1.0) for worker in workers],
        table.WORKER_DEATHS: every(lambda worker: worker.deaths),
        table.WORKER_DEATHS_FORGIVEN: every(lambda worker: worker.deaths_forgiven),
        table.WORKER_SILENCE: every(lambda worker: worker.silence_s + since_s),
        table.WORKER_BUSY: every(lambda worker: worker.busy_s),
        table.WORKER_IDLE: every(lambda worker: worker.idle_s),
        table.WORKER_GROUPS: every(lambda worker: worker.groups),
        table.WORKER_IMAGES: every(lambda worker: worker.images),
        table.WORKER_VERSION: every(lambda worker: worker.version, [worker for worker in workers if worker.version]),
        table.WORKER_GPU: every(lambda worker: worker.gpu_bytes),
        table.DIGEST_CONFLICTS: [((), len(held) - len({version for version, _ in held}))],
        **scorer_cells(workers),
    }


def scorer_cells(workers: Sequence[WorkerFigures]) -> Cells:
    """The samples of the rewards' calls, over all workers."""
    sums: dict[str, Tally] = {}
    for worker in workers:
        for name, tally in worker.rewards.items():
            sums[name] = sums.get(name, Tally()) + tally
    return {
        table.REWARD_CALLS: [((name,), tally.calls) for name, tally in sums.items()],
        table.REWARD_FAILURES: [((name,), tally.failures) for name, tally in sums.items()],
        table.REWARD_IMAGES: [((name,), tally.images) for name, tally in sums.items()],
        table.REWARD_SECONDS: [((name,), tally.seconds) for name, tally in sums.items()],
        table.REWARD_RETRIES: [((name,), tally.retries) for name, tally in sums.items()],
        table.REWARD_BREAKERS: [((name,), tally.breakers_open) for name, tally in sums.items()],
    }


def update_cells(record: UpdateRecord) -> Cells:
    """The last update's samples, but for the guard's; a step that was not scored is NaN."""
    figures = record.figures
    return {
        table.UPDATE: [((), record.update)],
        table.UPDATE_SECONDS: [((), sum(record.phase_seconds.values()))],
        table.LAST_UPDATE: [((), record.unix_time)],
        table.WEIGHTS_VERSION: [((), record.version)],
        table.LOSS: [((), figures.loss)],
        table.GRAD_NORM: [((), figures.grad_norm)],
        table.TEMPERATURE: by_step(figures.temperature),
        table.LEARNING_RATE: [((), figures.rate)],
        table.KL: [((), figures.kl)],
        table.CLIPPED: [((), figures.clip_fraction)],
        table.SKIPPED: [((), figures.skipped_fraction)],
        table.DROPPED: [((), figures.dropped_fraction)],
        table.ADVANTAGE_STD: by_step(figures.advantage_std),
        table.DRIFT: by_step(figures.drift),
        table.LOG_RATIO_MAX: by_step(figures.log_ratio_max),
        **reward_cells(figures),
    }


def look_cells(look: Look, verdict: Verdict) -> Cells:
    """The samples of the last look of the held-out panel."""
    scores = {"trained": look.trained, "panel": look.panel}
    return {
        table.LOOK_UPDATE: [((), look.update)],
        table.LOOK_SCORE: [
            ((name, kind), fmean(values)) for kind, by_name in scores.items() for name, values in by_name.items()
        ],
        table.LOOK_STATISTIC: [((name,), value) for name, value in look.statistics.items()],
        table.LOOK_FALL: [((fall.reward,), fall.fall) for fall in verdict.falls],
        table.LOOK_HACKED: [((fall.reward,), float(fall.reward in verdict.hacked)) for fall in verdict.falls],
    }


def reward_cells(figures: ReportFigures) -> Cells:
    """The rewards' samples, by step."""
    rewards = figures.rewards.items()
    return {
        table.REWARD: [
            ((name, str(step), stat), value)
            for name, reward in rewards
            for stat, column in (("mean", reward.mean), ("spread", reward.spread))
            for step, value in enumerate(column)
        ],
        table.ZERO_SPREAD: [
            ((name, str(step)), value) for name, reward in rewards for step, value in enumerate(reward.zero_spread)
        ],
        table.REWARD_WEIGHT: [((name,), reward.weight) for name, reward in rewards],
        table.GATE_PASSED: [
            ((name, str(step)), value) for name, reward in rewards for step, value in enumerate(reward.passed)
        ],
    }


def by_step(column: Mapping[int, float]) -> Samples:
    """A figure's samples, one per step."""
    return [((str(step),), value) for step, value in column.items()]
