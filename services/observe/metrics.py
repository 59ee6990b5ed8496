"""The collector behind the metric table, and its HTTP endpoint.

The queue's figures are read at scrape time through a callable, so that they stay true when a worker dies; the
learner's are kept here and moved on by `RunMetrics.observe` at each update.
"""

from __future__ import annotations

import errno
import logging
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from services.observe import metric_table as table
from services.observe.history import UpdateRecord
from services.observe.metric_table import Metric

LOG = logging.getLogger(__name__)
Samples = Sequence[tuple[tuple[str, ...], float]]
"""Label values in the table's order, and the number."""
Cells = dict[Metric, list[tuple[tuple[str, ...], float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """What waits for one stage."""

    entries: int  # groups that nobody has taken
    pending: int  # groups taken and not acknowledged
    oldest_age_s: float  # seconds since the oldest of both was added; 0: nothing waits


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFigures:
    """The queue at one moment; totals run over the whole run."""

    stages: Mapping[str, StageFigures]
    dispatched: int
    consumed: int
    evicted: int
    dead: int
    in_flight: int


ReadQueue = Callable[[], QueueFigures]


class RunMetrics(Collector):
    """A run's metrics, ready for a Prometheus registry; safe to observe and to scrape from different threads."""

    def __init__(self, run: str, read_queue: ReadQueue) -> None:
        """`read_queue` is called once per scrape, from the endpoint's thread; it should give up within a scrape."""
        self._run = run
        self._read_queue = read_queue
        self._lock = threading.Lock()
        self._last: UpdateRecord | None = None
        self._updates = 0
        self._images = 0
        self._phase_seconds: Counter[str] = Counter()
        self._staleness_counts = [0] * (len(table.STALENESS_BUCKETS) + 1)
        self._staleness_sum = 0
        self._reachable = True

    def observe(self, record: UpdateRecord) -> None:
        """Move the learner's metrics on by one update."""
        with self._lock:
            self._last = record
            self._updates += 1
            self._images += record.figures.images
            for phase, seconds in record.phase_seconds.items():
                self._phase_seconds[phase] += seconds  # type: ignore[assignment]  # a Counter of floats
            for age in record.staleness:
                self._staleness_counts[bisect_left(table.STALENESS_BUCKETS, age)] += 1
                self._staleness_sum += age

    def collect(self) -> Iterator[Family]:
        """Every metric of the table, in its order."""
        queue = self._queue()
        cells: Cells = {table.REDIS_UP: [((), float(queue is not None))], **(queue_cells(queue) if queue else {})}
        with self._lock:
            cells |= self._learner_cells()
            staleness = self._staleness()
        for metric in table.METRICS:
            yield staleness if metric is table.STALENESS else self._family(metric, cells.get(metric, []))

    def describe(self) -> Iterator[Family]:
        """The metrics without samples, so that registering reads no queue."""
        return (self._family(metric, []) for metric in table.METRICS if metric is not table.STALENESS)

    def _queue(self) -> QueueFigures | None:
        """The queue's figures, None where they cannot be read: an outage is a metric, not a failed scrape."""
        try:
            figures = self._read_queue()
        except Exception as error:  # the edge of the endpoint: whatever stops the reading, the scrape goes on
            if self._reachable:
                LOG.warning("the queue's figures cannot be read, tafs_redis_up is 0: %r", error)
            self._reachable = False
            return None
        self._reachable = True
        return figures

    def _learner_cells(self) -> Cells:
        cells: Cells = {
            table.UPDATES: [((), self._updates)],
            table.IMAGES: [((), self._images)],
            table.PHASE_SECONDS: [((phase,), seconds) for phase, seconds in self._phase_seconds.items()],
        }
        return cells if self._last is None else cells | update_cells(self._last)

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


def queue_cells(figures: QueueFigures) -> Cells:
    """The queue's samples by metric."""
    stages = figures.stages.items()
    return {
        table.QUEUE_ENTRIES: [
            cell
            for stage, entry in stages
            for cell in (((stage, "ready"), float(entry.entries)), ((stage, "pending"), float(entry.pending)))
        ],
        table.QUEUE_OLDEST_AGE: [((stage,), entry.oldest_age_s) for stage, entry in stages],
        table.GROUPS_IN_FLIGHT: [((), figures.in_flight)],
        table.GROUPS_DISPATCHED: [((), figures.dispatched)],
        table.GROUPS_CONSUMED: [((), figures.consumed)],
        table.GROUPS_EVICTED: [((), figures.evicted)],
        table.GROUPS_DEAD: [((), figures.dead)],
    }


def update_cells(record: UpdateRecord) -> Cells:
    """The last update's samples by metric; a step that was not scored is NaN."""
    figures = record.figures
    return {
        table.REWARD_MEAN: [
            ((name, str(step)), mean)
            for name, reward in figures.rewards.items()
            for step, mean in enumerate(reward.mean)
        ],
        table.LOSS: [((), figures.loss)],
        table.GRAD_NORM: [((), figures.grad_norm)],
        table.LAST_UPDATE: [((), record.unix_time)],
        table.WEIGHTS_VERSION: [((), record.version)],
    }


class Endpoint:
    """An HTTP endpoint that answers scrapes until it is closed."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def host(self) -> str:
        """The address it is bound to."""
        return str(self._server.server_address[0])

    @property
    def port(self) -> int:
        """The port it is really bound to."""
        return self._server.server_port

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(metrics: RunMetrics, *, port: int = 0, host: str = "127.0.0.1") -> Endpoint:
    """Answer scrapes of the metrics on http://host:port/metrics.

    Port 0 takes any free one. The default host is reached from this machine only. A port that is taken, or a host
    that is not this machine's, is a ValueError.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        reason = "the port is taken" if error.errno == errno.EADDRINUSE else str(error)
        raise ValueError(
            f"metrics endpoint: cannot listen on {host}:{port}: {reason}; choose another, or 0 for any free one"
        ) from error
    return Endpoint(server, thread)
