"""The history of a run: history.jsonl, one line per update, only ever appended to.

A record holds plain numbers, so that reading a history needs no torch. NaN has no place in JSON: it is written as
null and read back as NaN.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

if TYPE_CHECKING:
    from learner.report import UpdateReport


class TornHistoryWarning(UserWarning):
    """The last line of a history was cut off in the middle of a write and is left out."""


class RewardFigures(msgspec.Struct, frozen=True, kw_only=True):
    """`learner.report.RewardStatistics` from a history; tuples run over the K steps, NaN where not scored."""

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    zero_spread: tuple[float, ...]
    weight: float = math.nan  # histories from before weights had a schedule lack it
    passed: tuple[float, ...] = ()  # empty without a gate


class HistogramFigures(msgspec.Struct, frozen=True, kw_only=True):
    """`learner.histogram.Histogram` from a history: counts in equal bins from low to high."""

    low: float
    high: float
    total: float
    squares: float
    counts: tuple[int, ...]


class ReportFigures(msgspec.Struct, frozen=True, kw_only=True):
    """`learner.report.UpdateReport` as read from a history: the same fields, typed, without torch."""

    update: int
    consumed: tuple[int, ...]
    images: int
    trained: bool
    rate: float
    loss: float
    grad_norm: float
    kl: float
    clip_fraction: float
    skipped_fraction: float
    dropped_fraction: float
    guard_drift: float
    drift: dict[int, float]
    log_ratio_max: dict[int, float]
    advantage_std: dict[int, float]
    rewards: dict[str, RewardFigures]
    distance: float = math.nan  # this and what follows: absent from histories of earlier releases
    diversity: dict[int, float] = {}
    temperature: dict[int, float] = {}
    baseline_gain: dict[int, float] = {}
    advantages: dict[int, HistogramFigures] = {}
    drifts: dict[int, HistogramFigures] = {}


class UpdateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One update as the run saw it."""

    update: int  # of the surviving lineage, from 1
    version: int  # the weights version this update published
    lineage: int
    unix_time: float  # seconds since 1970, when the update ended
    run_seconds: float  # seconds the run has been running, over all its starts, pauses left out
    images_total: int  # images sampled for the updates so far
    staleness: tuple[int, ...]  # per group, in updates
    call_seconds: dict[str, float]  # inside network, decoder and scorer calls: sample, decode, score, update
    phase_seconds: dict[str, float]  # since the update before: they add up to the wall clock; see Controller
    report: dict[str, Any]  # the UpdateReport's fields, see `plain_report`

    @property
    def figures(self) -> ReportFigures:
        """The report, typed."""
        return msgspec.convert(self.report, ReportFigures, str_keys=True)


def plain_report(report: UpdateReport) -> dict[str, Any]:
    """The report's fields as a dict of numbers, tuples, strings and dicts, as a record wants it."""
    plain: dict[str, Any] = msgspec.to_builtins(report)
    return plain


class HistoryWriter:
    """Appends records to a history; each line reaches the file whole, in one write, before `append` returns."""

    def __init__(self, path: Path) -> None:
        """Open or create the history at `path`; a torn last line is cut off with a TornHistoryWarning."""
        _cut_torn_line(path)
        self._file: BinaryIO = path.open("ab", buffering=0)

    def append(self, record: UpdateRecord) -> None:
        """Write one record."""
        self._file.write(msgspec.json.encode(record) + b"\n")

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._file.close()

    def __enter__(self) -> HistoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_history(path: Path) -> tuple[UpdateRecord, ...]:
    """The surviving lineage's records, update rising.

    After a rollback to update n the run writes n + 1 again: a later record of an update supersedes the earlier one
    and all that followed it. A torn last line is left out with a TornHistoryWarning; a line that is broken
    anywhere else is a ValueError, since no interrupted write leaves one.
    """
    content = path.read_bytes()
    whole, newline, torn = content.rpartition(b"\n")
    if torn:
        _warn_torn(path, len(torn))
    kept: list[UpdateRecord] = []
    for number, line in enumerate(whole.split(b"\n") if newline else [], start=1):
        record = _parse(line, path, number)
        while kept and kept[-1].update >= record.update:
            kept.pop()
        kept.append(record)
    return tuple(kept)


def _parse(line: bytes, path: Path, number: int) -> UpdateRecord:
    try:
        fields = _nan_for_null(json.loads(line))
        report = msgspec.convert(fields["report"], ReportFigures, str_keys=True)
        return msgspec.convert({**fields, "report": msgspec.to_builtins(report)}, UpdateRecord)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}, line {number}: expected the record of an update, found {line[:60]!r} ({error}); "
            "remove the line to read the rest"
        ) from error


def _nan_for_null(value: Any) -> Any:  # noqa: ANN401 - a JSON tree
    """The tree with NaN for null; no field of a record can be null."""
    if value is None:
        return math.nan
    if isinstance(value, Mapping):
        return {key: _nan_for_null(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_nan_for_null(entry) for entry in value]
    return value


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        _warn_torn(path, len(content) - end)
        with path.open("r+b") as file:
            file.truncate(end)


def _warn_torn(path: Path, size_bytes: int) -> None:
    warnings.warn(
        f"{path}: the last line ({size_bytes} bytes) was cut off in the middle of a write and is left out",
        TornHistoryWarning,
        stacklevel=3,
    )
