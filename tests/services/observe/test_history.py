import math
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest

from learner.histogram import Histogram
from learner.report import RewardStatistics, UpdateReport
from services.observe.history import (
    HistogramFigures,
    HistoryWriter,
    ReportFigures,
    RewardFigures,
    TornHistoryWarning,
    plain_report,
    read_history,
)


def write(path: Path, records) -> None:
    with HistoryWriter(path) as writer:
        for record in records:
            writer.append(record)


def test_what_is_written_is_read_back_equal(tmp_path: Path, make_history) -> None:
    records = tuple(
        msgspec.structs.replace(record, report={**record.report, "guard_drift": 0.5}) for record in make_history(3)
    )
    write(tmp_path / "history.jsonl", records)
    read = read_history(tmp_path / "history.jsonl")
    assert read == records
    assert read[0].figures.drift.keys() == {0, 1, 2}


def test_nan_is_null_on_disk_and_nan_again_in_memory(tmp_path: Path, make_history) -> None:
    write(tmp_path / "history.jsonl", make_history(1))
    assert '"guard_drift":null' in (tmp_path / "history.jsonl").read_text()
    assert math.isnan(read_history(tmp_path / "history.jsonl")[0].figures.guard_drift)


def test_each_record_is_on_disk_when_append_returns(tmp_path: Path, make_history) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        for count, record in enumerate(make_history(3), start=1):
            writer.append(record)
            assert len(read_history(path)) == count


def test_a_torn_last_line_is_left_out_with_a_named_warning(tmp_path: Path, make_history) -> None:
    path = tmp_path / "history.jsonl"
    write(path, make_history(3))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.warns(TornHistoryWarning, match="cut off"):
        read = read_history(path)
    assert [record.update for record in read] == [1, 2]


def test_a_history_that_is_only_a_torn_line_reads_as_empty(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_bytes(b'{"update":')
    with pytest.warns(TornHistoryWarning):
        assert read_history(tmp_path / "history.jsonl") == ()


def test_writing_on_after_a_torn_line_leaves_a_whole_history(tmp_path: Path, make_history) -> None:
    path = tmp_path / "history.jsonl"
    records = make_history(4)
    write(path, records[:3])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.warns(TornHistoryWarning):
        write(path, records[2:])
    assert [record.update for record in read_history(path)] == [1, 2, 3, 4]


def test_a_line_broken_in_the_middle_is_an_error_that_names_it(tmp_path: Path, make_history) -> None:
    path = tmp_path / "history.jsonl"
    write(path, make_history(3))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:50] + b"\n" + lines[2])
    with pytest.raises(ValueError, match="line 2"):
        read_history(path)


def test_after_a_rollback_only_the_surviving_lineage_is_read(tmp_path: Path, make_history) -> None:
    path = tmp_path / "history.jsonl"
    records = make_history(5)
    again = [
        msgspec.structs.replace(record, lineage=1, version=record.update + 10) for record in records[2:4]
    ]  # rolled back to update 2
    write(path, [*records, *again])
    read = read_history(path)
    assert [(record.update, record.lineage) for record in read] == [(1, 0), (2, 0), (3, 1), (4, 1)]


def test_the_typed_figures_have_exactly_the_fields_of_the_learners_report() -> None:
    assert ReportFigures.__struct_fields__ == tuple(field.name for field in fields(UpdateReport))
    assert RewardFigures.__struct_fields__ == tuple(field.name for field in fields(RewardStatistics))
    assert HistogramFigures.__struct_fields__ == tuple(field.name for field in fields(Histogram))


def test_the_learners_report_becomes_plain_and_typed_again(make_history) -> None:
    record = make_history(1)[0]
    rewards = {name: RewardStatistics(**figures) for name, figures in record.report["rewards"].items()}
    report = UpdateReport(**{**record.report, "rewards": rewards})
    plain = plain_report(report)
    assert type(plain["rewards"]["judge"]) is dict
    figures = msgspec.structs.replace(record, report=plain).figures
    assert figures.rewards["judge"].mean == rewards["judge"].mean
    assert figures.drift == report.drift
