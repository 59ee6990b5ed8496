"""`tafs sample`, `tafs evaluate` and `tafs bench` on the quickstart model, in this process."""

from pathlib import Path

import pytest
from PIL import Image

from services.cli.bench import REPETITIONS, Bench, Phase, in_turns
from services.cli.measure import evaluate_adapter, sample_strip
from services.cli.run_file import load_run_file
from services.errors import ConfigError

QUICKSTART = Path(__file__).resolve().parents[3] / "deploy/configs/quickstart.yaml"


def test_sample_writes_one_row_per_sample_and_one_column_per_step(tmp_path) -> None:
    config = load_run_file(QUICKSTART)
    sizes = {}
    for count in (1, 3):
        with Image.open(sample_strip(config, "write 42 in red", None, tmp_path / f"{count}.png", count)) as strip:
            sizes[count] = strip.size
    assert sizes[1][0] == sizes[3][0] > 4 * 128
    assert sizes[3][1] > sizes[1][1]


def test_an_adapter_that_is_not_there_is_told(tmp_path) -> None:
    with pytest.raises(ConfigError, match="expected an adapter at"):
        sample_strip(load_run_file(QUICKSTART), "write 42 in red", tmp_path, tmp_path / "x.png", 1)


@pytest.mark.integration
def test_evaluate_prints_every_figure_with_its_interval(capsys) -> None:
    evaluate_adapter(load_run_file(QUICKSTART, ["evaluation.images=108"]), None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all("108 images" in line and "[" in line for line in lines)


def test_the_bench_times_every_phase_and_its_floor() -> None:
    config = load_run_file(QUICKSTART, ["learning.groups_per_update=1", "sampling.samples_per_group=2"])
    phases = Bench(config).phases()
    assert [phase.name for phase in phases] == ["sample", "decode", "score", "update"]
    for phase in phases:
        phase.floor()
        phase.taken()


def test_floor_and_phase_are_timed_in_turns() -> None:
    order: list[str] = []
    in_turns(Phase("noted", "call", lambda: order.append("taken"), lambda: order.append("floor")))
    assert order[:2] == ["taken", "floor"]  # not timed: what is slow only once
    assert order[2:] == ["floor", "taken"] * REPETITIONS
