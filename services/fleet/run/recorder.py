"""Everything that watches a run: history, TensorBoard, metrics endpoint, terminal, image strips."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
from rich.console import Console

from services.config import RunConfig
from services.data.ledger import QueueStatistics
from services.data.queue import Queue
from services.data.whole_file import write_whole
from services.errors import QueueError, ServerUnavailable
from services.fleet.messages import Strip
from services.fleet.planning.run_folder import recorded_provenance
from services.observe.endpoint import RAY_TARGETS, announce, serve
from services.observe.events import EventLog
from services.observe.hacking import Look, Verdict
from services.observe.history import HistoryWriter, UpdateRecord, read_history
from services.observe.hyperparameters import hyperparameters
from services.observe.journeys import Journey, append_journeys
from services.observe.log import JsonLines
from services.observe.metric_cells import QueueFigures, RunFacts, Saved, StageFigures
from services.observe.metric_table import RunState
from services.observe.metrics import RunMetrics
from services.observe.pictures import BEFORE_AFTER
from services.observe.progress import RunView
from services.observe.scalars import ScalarWriter
from services.observe.strips import StripPanel, StripRow, compose_before_after, compose_strip, strip_path
from services.observe.workers import WORKING, WorkerFigures, write_workers

STATUS_FILE = "status.json"
"""What `tafs status` shows: written anew after every update."""
SCRAPE_TIMEOUT_S = 3.0
"""How long a scrape waits for the queue's figures; well below Prometheus' own patience, or an outage of the server
would look like one of the run.
"""


class Recorder:
    """Owns the run's observers; a context manager around the updates."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        queue: Queue,
        scraped: Queue,
        console: Console,
        lines: JsonLines | None = None,
    ) -> None:
        """`scraped` is the same queue for the endpoint's thread, through a client that gives up after
        SCRAPE_TIMEOUT_S. lines: where the run tells what happens, instead of the view on the console.
        """
        path = folder / "history.jsonl"
        behind = read_history(path) if path.exists() else ()
        self._config = config
        self._folder = folder
        self._workers: Sequence[WorkerFigures] = ()
        self._queue = queue
        self._history = HistoryWriter(path)
        self._scalars = ScalarWriter(folder / "tensorboard", resumed_after=behind[-1] if behind else None)
        settings = hyperparameters(config.model_dump(mode="json"))
        self._scalars.write_settings(settings, compared_by(config), unix_time=time.time())
        self._metrics = RunMetrics(config.name, run_facts(config, folder), lambda: queue_figures(scraped))
        self._endpoint = serve(self._metrics, port=config.fleet.metrics_port, host=config.fleet.metrics_host)
        self._target = announce(config.runs, config.name, self._endpoint.address)
        self._ray_target: Path | None = None
        self._events = EventLog(folder)
        self._last = behind[-1] if behind else None
        self._counted: QueueStatistics | None = None
        self._lines = lines
        shown = console if lines is None else Console(quiet=True)
        self._view = RunView(config.name, config.learning.updates, history=behind, console=shown)

    @property
    def metrics_url(self) -> str:
        """Where Prometheus scrapes."""
        return f"http://{self._endpoint.address}/metrics"

    def __enter__(self) -> Self:
        self._view.__enter__()
        behind = "" if self._last is None else f", with {self._last.update} updates behind it"
        self.tell("start", f"The run starts{behind}.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.__exit__(kind, error, trace)
        wanted = error is None or isinstance(error, KeyboardInterrupt)  # the second signal: somebody is there
        self.tell("end", "The run ends." if wanted else f"The run ends: {type(error).__name__}: {error}")
        self._events.close()
        self._history.close()
        self._scalars.close()
        self._endpoint.close()
        if self._ray_target is not None:  # it ends with the run, however that ends
            self._ray_target.unlink(missing_ok=True)
        if wanted:  # else Prometheus goes on asking, finds nobody and says so
            self._target.unlink(missing_ok=True)

    def watch_ray(self, addresses: Sequence[str]) -> None:
        """Tell Prometheus where the metrics of the run's private Ray are; nothing without one."""
        if addresses:
            self._ray_target = announce(self._config.runs, self._config.name, *addresses, targets=RAY_TARGETS)

    def enter(self, state: RunState) -> None:
        """The run is in this state now."""
        self._metrics.enter(state)

    def checkpointed(self, seconds: float) -> None:
        """A checkpoint is complete; it took so long."""
        self._metrics.save(Saved(unix_time=time.time(), seconds=seconds))

    def tell(self, kind: str, text: str, *, slot: str = "") -> None:
        """Keep in the journal what happened that is no update; kind: of `services.observe.events.KINDS`."""
        update = self._last.update if self._last else 0
        self._events.add(kind, text, update=update, slot=slot)
        if self._lines is not None:
            self._lines.emit(text, slot=slot, update=update, version=self._last.version if self._last else None)

    def looked(self, look: Look, verdict: Verdict) -> None:
        """The held-out panel looked at the run."""
        self._metrics.look(look, verdict)
        self._scalars.write_look(look, unix_time=time.time())

    def show_workers(self, workers: Sequence[WorkerFigures]) -> None:
        """The workers as the supervisor sees them now."""
        self._workers = workers
        self._metrics.see(workers)
        write_workers(self._folder, workers)

    def take(self, record: UpdateRecord, journeys: Sequence[Journey] = ()) -> None:
        """One update happened; journeys: of the groups that it learned from."""
        if self._last is not None and record.lineage != self._last.lineage:
            self.tell("lineage", f"Update {record.update} is the first of lineage {record.lineage}.")
        self._last = record
        self._history.append(record)
        append_journeys(self._folder, journeys)
        if self._lines is not None:
            self._lines.tell_update(record, self._config.learning.updates, journeys)
        self._scalars.write(record)
        self._metrics.observe(record, journeys)
        figures = self._statistics()
        for kind, text in losses(self._counted, figures):
            self.tell(kind, text)
        self._counted = figures
        depths: dict[str, float] = {name: stage.entries for name, stage in figures.stages.items()}
        workers = Counter(worker.role for worker in self._workers if worker.state in WORKING)
        self._view.update(record, depths, workers)
        status = {
            "run": self._config.name,
            "unix_time": time.time(),
            "metrics": self.metrics_url,
            "planned_updates": self._config.learning.updates,
            "queue": msgspec.to_builtins(figures),
            "record": msgspec.to_builtins(record),
        }
        write_whole(self._folder / STATUS_FILE, msgspec.json.encode(status))

    def _statistics(self) -> QueueStatistics:
        """The queue's figures; while the server is away, the last ones."""
        try:
            return self._queue.statistics()
        except (QueueError, ServerUnavailable):
            if self._counted is None:
                raise
            return self._counted

    def show_strips(self, strips: Sequence[Strip], update: int) -> None:
        """Keep an update's image strips: as a picture, in TensorBoard, and as arrays for the side-by-side picture."""
        folder = self._folder / "strips"
        folder.mkdir(exist_ok=True)
        picture = compose_strip(_rows(strips), _columns(self._config), f"{self._config.name}, update {update}")
        picture.save(strip_path(folder, update))
        self._scalars.write_strip(picture, update=update, unix_time=time.time())
        np.savez_compressed(
            strip_path(folder, update).with_suffix(".npz"),
            images=np.stack([strip.images for strip in strips]),
            captions=np.array([strip.caption for strip in strips]),
            notes=np.array([strip.notes for strip in strips]),
        )


def compose_run_strips(config: RunConfig, folder: Path) -> None:
    """The same prompts and seeds at the start, in the middle and at the end, side by side."""
    files = sorted((folder / "strips").glob("update_*.npz"))
    if len(files) < 2:
        return
    updates = {int(file.stem.split("_")[1]): file for file in files}
    middle = min(updates, key=lambda update: abs(update - max(updates) / 2))
    chosen = dict.fromkeys((min(updates), middle, max(updates)))
    panels = [StripPanel(heading=f"Update {update}", rows=_rows(_stored(updates[update]))) for update in chosen]
    columns = [f"step {step}" for step in range(len(config.sampling.sigmas) - 1)]
    picture = compose_before_after(panels, columns, config.name)
    picture.save(folder / "strips" / BEFORE_AFTER)


def run_facts(config: RunConfig, folder: Path) -> RunFacts:
    """What the metrics endpoint says of a run from its start."""
    made = recorded_provenance(folder)
    return RunFacts(
        started=time.time(),
        began=made["began"],
        planned_updates=config.learning.updates,
        commit=made["commit"],
        model=config.model.path.name,
        advantage=config.learning.advantage.mode,
        max_staleness=config.fleet.max_staleness,
        max_payload_bytes=config.fleet.max_payload_bytes or 0,
    )


def compared_by(config: RunConfig) -> list[str]:
    """The scalars that TensorBoard sets beside a run's settings: each reward at the last step that it scores."""
    behaviour = config.sampling.behaviours()[0]
    return [f"reward/{reward.title}/step_{config.reward_steps(reward, behaviour)[-1]}" for reward in config.rewards]


def losses(before: QueueStatistics | None, now: QueueStatistics) -> Iterator[tuple[str, str]]:
    """What came to nothing in the queue since `before` (None: since the run began on the server): kind and sentence."""
    for stage, failures in now.failures.items():
        if new := _rise(before.failures.get(stage, 0) if before else 0, failures):
            yield "failed", f"{_count(new, 'failed attempt')} at {stage}."
    for reason, evictions in now.evictions.items():
        if new := _rise(before.evictions.get(reason, 0) if before else 0, evictions):
            yield "evicted", f"{_count(new, 'group')} drawn anew: {reason}."
    if new := _rise(before.dead if before else 0, now.dead):
        yield "dead", f"{_count(new, 'group')} given up after too many failed attempts."


def _rise(before: int, now: int) -> int:
    """How far a counter rose; one that fell began again at 0."""
    return now - before if now >= before else now


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def queue_figures(queue: Queue) -> QueueFigures | None:
    """The queue as the metrics endpoint shows it; None before the run has begun on the server."""
    try:
        now = queue.statistics()
    except QueueError:
        return None
    memory = queue.memory()
    return QueueFigures(
        stages={
            name: StageFigures(
                entries=stage.ready,
                pending=stage.pending,
                oldest_age_s=stage.oldest_age_s,
                failures=now.failures[name],
            )
            for name, stage in now.stages.items()
        },
        evictions=now.evictions,
        dispatched=now.dispatched,
        consumed=now.consumed,
        dead=now.dead,
        duplicates=now.duplicates,
        payload_bytes=now.payload_bytes,
        in_flight=now.in_flight,
        memory_used_bytes=None if memory is None else memory.used_bytes,
        memory_limit_bytes=0 if memory is None else memory.limit_bytes,
    )


def _rows(strips: Sequence[Strip]) -> tuple[StripRow, ...]:
    return tuple(StripRow(caption=strip.caption, images=strip.images, notes=strip.notes) for strip in strips)


def _stored(path: Path) -> list[Strip]:
    with np.load(path) as arrays:
        rows = zip(arrays["captions"], arrays["images"], arrays["notes"], strict=True)
        return [Strip(caption=str(c), images=i, notes=tuple(str(n) for n in notes)) for c, i, notes in rows]


def _columns(config: RunConfig) -> list[str]:
    return [f"step {step}, sigma {sigma:g}" for step, sigma in enumerate(config.sampling.sigmas[:-1])]
