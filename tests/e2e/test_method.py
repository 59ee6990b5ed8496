"""The parts of the method that change what travels, through the whole fleet."""

import pytest

from .conftest import DEADLINE_S

pytestmark = [pytest.mark.integration, pytest.mark.timeout(2 * DEADLINE_S)]


def test_trees_a_trained_last_step_and_a_controller_go_through_the_fleet(run) -> None:
    done = run(
        "method",
        "evaluation=null",
        "sampling.branching=[2,1,2]",
        "sampling.last_step=floor",
        "sampling.last_std=0.1",
        "sampling.temperature={start: 0.5, adaptive: {target: 5.0, of: latent, minimum: 0.3}}",
    )
    assert done.code == 0, done.output
    reports = [record["report"] for record in done.history()]
    checked = [report["guard_drift"] for report in reports if report["guard_drift"] is not None]
    assert checked
    assert max(checked) < 1e-4
    assert {len(report["rewards"]["text_rendering"]["mean"]) for report in reports} == {5}  # x[K] is scored, too
    assert all(len(report["diversity"]) == 5 for report in reports)
    used = [report["temperature"]["0"] for report in reports]
    assert used[0] == pytest.approx(0.5)
    assert used[-1] > 0.5  # nothing is so far apart: the controller heats, and the groups say so
    assert all(report["distance"] is not None for report in reports)
    assert (done.folder / "checkpoints/update_000003/control.safetensors").exists()


def test_one_adapter_is_trained_on_several_numbers_of_steps(run) -> None:
    done = run(
        "steps",
        "evaluation=null",
        "sampling.last_step=x0",
        "sampling.last_std=0.3",
        "sampling.other_sigmas=[[1, 0], [1, 0.5, 0]]",
        "learning.groups_per_update=4",
    )
    assert done.code == 0, done.output
    reports = [record["report"] for record in done.history()]
    assert max(report["guard_drift"] for report in reports if report["guard_drift"] is not None) < 1e-4
    assert {step for report in reports for step in report["drift"]} >= {"0", "1"}
