"""The collector behind the metric table.

The queue's figures are read at scrape time through a callable, so that they stay true when a worker dies; the
learner's are kept here and moved on by `RunMetrics.observe` at each update.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from services.observe import metric_table as table
from services.observe.hacking import Look, Verdict
from services.observe.history import UpdateRecord
from services.observe.journeys import Journey
from services.observe.metric_cells import (
    Cells,
    QueueFigures,
    RunFacts,
    Samples,
    Saved,
    fact_cells,
    known_reasons,
    look_cells,
    queue_cells,
    saved_cells,
    update_cells,
    worker_cells,
)
from services.observe.metric_table import Metric, RunState
from services.observe.workers import WorkerFigures

LOG = logging.getLogger(__name__)
ReadQueue = Callable[[], QueueFigures | None]
"""None: the server answers, and the run has no queue on it yet. Any error: the server does not answer."""


class RunMetrics(Collector):
    """A run's metrics, ready for a Prometheus registry; safe to observe and to scrape from different threads."""

    def __init__(self, run: str, facts: RunFacts, read_queue: ReadQueue) -> None:
        """`read_queue` is called once per scrape, from the endpoint's thread; it should give up within a scrape."""
        self._run = run
        self._facts = facts
        self._read_queue = read_queue
        self._lock = threading.Lock()
        self._state: RunState = "starting"
        self._last: UpdateRecord | None = None
        self._saved: Saved | None = None
        self._looked: Cells = {}
        self._guard_drift = math.nan
        self._totals: dict[Metric, float] = dict.fromkeys((table.UPDATES, table.IMAGES, table.NONFINITE_UPDATES), 0)
        self._phase_seconds: defaultdict[str, float] = defaultdict(float)
        self._call_seconds: defaultdict[str, float] = defaultdict(float)
        self._group_seconds: defaultdict[str, float] = defaultdict(float)
        self._staleness_counts = [0] * (len(table.STALENESS_BUCKETS) + 1)
        self._staleness_sum = 0
        self._reasons: tuple[str, ...] = ()
        self._reachable = True
        self._workers: tuple[WorkerFigures, ...] = ()
        self._seen = 0.0

    def observe(self, record: UpdateRecord, journeys: Sequence[Journey] = ()) -> None:
        """Move the learner's metrics on by one update; journeys: of the groups that it learned from."""
        figures = record.figures
        with self._lock:
            self._last = record
            self._totals[table.UPDATES] += 1
            self._totals[table.IMAGES] += figures.images
            self._totals[table.NONFINITE_UPDATES] += not figures.trained
            if not math.isnan(figures.guard_drift):
                self._guard_drift = figures.guard_drift
            for phase, seconds in record.phase_seconds.items():
                self._phase_seconds[phase] += seconds
            for call, seconds in record.call_seconds.items():
                self._call_seconds[call] += seconds
            for stage in (stage for journey in journeys for stage in journey.stages):
                self._group_seconds[stage.name] += stage.seconds
            for age in record.staleness:
                self._staleness_counts[bisect_left(table.STALENESS_BUCKETS, age)] += 1
                self._staleness_sum += age

    def enter(self, state: RunState) -> None:
        """The run is in this state now."""
        with self._lock:
            self._state = state

    def save(self, saved: Saved) -> None:
        """A checkpoint is complete; the next update's record has its seconds among its phases."""
        with self._lock:
            self._saved = saved

    def look(self, look: Look, verdict: Verdict) -> None:
        """The held-out panel looked."""
        with self._lock:
            self._looked = look_cells(look, verdict)

    def see(self, workers: Sequence[WorkerFigures]) -> None:
        """The workers as they are now."""
        with self._lock:
            self._workers, self._seen = tuple(workers), time.monotonic()

    def collect(self) -> Iterator[Family]:
        """Every metric of the table, in its order."""
        cells = self._queue()
        with self._lock:
            cells |= self._learner_cells()
            staleness = self._staleness()
        for metric in table.METRICS:
            yield staleness if metric is table.STALENESS else self._family(metric, cells.get(metric, []))

    def describe(self) -> Iterator[Family]:
        """The metrics without samples, so that registering reads no queue."""
        return (self._family(metric, []) for metric in table.METRICS if metric is not table.STALENESS)

    def _queue(self) -> Cells:
        """The queue's samples; without them where it cannot be read: an outage is a metric, not a failed scrape."""
        asked = time.perf_counter()
        try:
            figures = self._read_queue()
        except Exception as error:  # the edge of the endpoint: whatever stops the reading, the scrape goes on
            if self._reachable:
                LOG.warning("the queue's figures cannot be read, tafs_redis_up is 0: %r", error)
            self._reachable = False
            return {table.REDIS_UP: [((), 0.0)]}
        self._reachable = True
        cells: Cells = {table.REDIS_UP: [((), 1.0)], table.REDIS_SECONDS: [((), time.perf_counter() - asked)]}
        if figures is None:
            return cells
        with self._lock:
            self._reasons = known_reasons(self._reasons, figures.evictions)
        return cells | queue_cells(figures, self._reasons)

    def _learner_cells(self) -> Cells:
        cells: Cells = {
            **fact_cells(self._facts, self._state),
            **{metric: [((), total)] for metric, total in self._totals.items()},
            table.PHASE_SECONDS: [((phase,), seconds) for phase, seconds in self._phase_seconds.items()],
            table.CALL_SECONDS: [((call,), seconds) for call, seconds in self._call_seconds.items()],
            table.GROUP_SECONDS: [((stretch,), seconds) for stretch, seconds in self._group_seconds.items()],
        }
        if self._saved is not None:
            cells |= saved_cells(self._saved)
        if self._last is not None:
            cells |= {**update_cells(self._last), table.GUARD_DRIFT: [((), self._guard_drift)]}
        if self._workers:
            cells |= worker_cells(self._workers, time.monotonic() - self._seen)
        return cells | self._looked

    def _staleness(self) -> Family:
        metric = table.STALENESS
        family = HistogramMetricFamily(metric.name, metric.help, labels=(table.RUN_LABEL,))
        ends = [*(str(end) for end in table.STALENESS_BUCKETS), "+Inf"]
        counts = [sum(self._staleness_counts[: index + 1]) for index in range(len(ends))]
        family.add_metric((self._run,), list(zip(ends, counts, strict=True)), sum_value=self._staleness_sum)
        return family

    def _family(self, metric: Metric, samples: Samples) -> Family:
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(metric.name, metric.help, labels=(table.RUN_LABEL, *metric.labels))
        for labels, value in samples:
            family.add_metric((self._run, *labels), value)
        return family
