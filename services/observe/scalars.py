"""TensorBoard events from the records and settings of a run, through tensorboard's own writer: no torch."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import TracebackType

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from services.observe.hacking import Look
from services.observe.history import HistogramFigures, UpdateRecord
from services.observe.hyperparameters import Setting, summary_of


class ScalarWriter:
    """Writes settings, records and strips into a TensorBoard folder; one event file per start of the run."""

    def __init__(self, folder: Path, *, resumed_after: UpdateRecord | None = None) -> None:
        """Open a new event file in `folder`.

        `resumed_after` is the last surviving record of a run that goes on: what earlier event files say of later
        updates disappears from TensorBoard. None: the run starts.
        """
        self._writer = EventFileWriter(str(folder))
        self._previous = resumed_after
        if resumed_after is not None:
            event = Event(step=resumed_after.update + 1, wall_time=resumed_after.unix_time)
            event.session_log.status = SessionLog.START
            self._writer.add_event(event)

    def write_settings(self, settings: Mapping[str, Setting], measured: Sequence[str], *, unix_time: float) -> None:
        """Write the run's settings, by dotted key; `measured` are the tags of scalars that runs are compared by."""
        self._add(summary_of(settings, measured), 0, unix_time)

    def write(self, record: UpdateRecord) -> None:
        """Write an update's scalars and histograms; what is not finite is left out."""
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars_of(record, self._previous)
            if math.isfinite(value)
        ]
        spreads = [Summary.Value(tag=tag, histo=histogram_of(found)) for tag, found in histograms_of(record)]
        self._previous = record
        self._add(Summary(value=[*values, *spreads]), record.update, record.unix_time)

    def write_look(self, look: Look, *, unix_time: float) -> None:
        """Write the means of a look of the held-out panel."""
        tagged = [
            *((f"look/trained/{name}", fmean(scores)) for name, scores in look.trained.items()),
            *((f"look/panel/{name}", fmean(scores)) for name, scores in look.panel.items()),
            *((f"look/{name}", value) for name, value in look.statistics.items()),
        ]
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in tagged if math.isfinite(value)]
        self._add(Summary(value=values), look.update, unix_time)

    def write_strip(self, strip: Image.Image, *, update: int, unix_time: float, tag: str = "strips") -> None:
        """Write a strip as an image."""
        encoded = io.BytesIO()
        strip.save(encoded, format="PNG")
        image = Summary.Image(
            height=strip.height, width=strip.width, colorspace=3, encoded_image_string=encoded.getvalue()
        )
        self._add(Summary(value=[Summary.Value(tag=tag, image=image)]), update, unix_time)

    def _add(self, summary: Summary, update: int, unix_time: float) -> None:
        self._writer.add_event(Event(step=update, wall_time=unix_time, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the event file."""
        self._writer.close()

    def __enter__(self) -> ScalarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def scalars_of(record: UpdateRecord, previous: UpdateRecord | None) -> Iterator[tuple[str, float]]:
    """The tags and values of an update; `previous` is the record before it, from which its speed is measured."""
    figures = record.figures
    for name, reward in figures.rewards.items():
        for step, mean in enumerate(reward.mean):
            yield f"reward/{name}/step_{step}", mean
    for tag, by_step in (
        ("advantage_std", figures.advantage_std),
        ("drift", figures.drift),
        ("diversity", figures.diversity),
        ("temperature", figures.temperature),
        ("baseline_gain", figures.baseline_gain),
    ):
        for step, value in by_step.items():
            yield f"{tag}/step_{step}", value
    yield "loss", figures.loss
    yield "grad_norm", figures.grad_norm
    yield "kl", figures.kl
    yield "distance_from_base", figures.distance
    yield "clip_fraction", figures.clip_fraction
    yield "learning_rate", figures.rate
    if record.staleness:
        yield "staleness", sum(record.staleness) / len(record.staleness)
    images = record.images_total - (previous.images_total if previous else 0)
    seconds = record.run_seconds - (previous.run_seconds if previous else 0.0)
    if seconds > 0:
        yield "images_per_second", images / seconds
    for phase, spent in record.phase_seconds.items():
        yield f"phase_seconds/{phase}", spent


def histograms_of(record: UpdateRecord) -> Iterator[tuple[str, HistogramFigures]]:
    """The tags and histograms of an update."""
    for tag, by_step in (("advantages", record.figures.advantages), ("drifts", record.figures.drifts)):
        for step, found in by_step.items():
            yield f"{tag}/step_{step}", found


def histogram_of(found: HistogramFigures) -> HistogramProto:
    """As TensorBoard keeps it: the right end of each bin, and its count."""
    bins = len(found.counts)
    return HistogramProto(
        min=found.low,
        max=found.high,
        num=sum(found.counts),
        sum=found.total,
        sum_squares=found.squares,
        bucket_limit=[found.low + (found.high - found.low) * end / bins for end in range(1, bins + 1)],
        bucket=found.counts,
    )
