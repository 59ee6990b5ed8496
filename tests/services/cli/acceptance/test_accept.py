"""The report on a machine without a GPU; what a GPU would add is skipped by name."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from services.cli.acceptance.accept import Request, accept, all_claims, chosen, fleet_overrides
from services.cli.acceptance.run_claims import judge_history
from services.cli.run_file import load_run_file
from services.errors import ConfigError, ExitCode
from tests.services.observe.conftest import make_record

QUICKSTART = Path("deploy/configs/quickstart.yaml")
without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU says")


def request(tmp_path, *only):
    return Request(run_file=QUICKSTART, overrides=(), only=only, output=tmp_path / "accept.json")


def names_of(tmp_path, gpus):
    return [claim.name for claim in all_claims(load_run_file(QUICKSTART), request(tmp_path), (), tmp_path, gpus)]


def history(values):
    """Records whose reward's last scored step has these means."""
    rng = np.random.default_rng(0)
    for update, value in enumerate(values, start=1):
        record = make_record(update, rng, ("exact_match",), 2)
        rewards = {"exact_match": {**record.report["rewards"]["exact_match"], "mean": (value, float("nan"))}}
        yield msgspec.structs.replace(record, report={**record.report, "rewards": rewards})


@without_a_gpu
@pytest.mark.integration
def test_it_writes_what_it_found_and_what_it_skipped(tmp_path) -> None:
    said = []
    assert accept(request(tmp_path, "parity:flux1", "guard:flux1", "sums", "memory"), said.append) is ExitCode.DONE
    report = json.loads((tmp_path / "accept.json").read_text())
    status = {claim["name"]: claim["status"] for claim in report["claims"]}
    for dtype in ("float32", "bfloat16"):
        for kind in ("parity", "guard"):
            assert status.pop(f"{kind}:flux1:{dtype}:cpu") == "passed"
            assert status.pop(f"{kind}:flux1:{dtype}:cuda") == "skipped"
    assert status == {
        "sums:gloo": "passed",
        "sums:nccl": "skipped",
        "memory:rollout": "skipped",
        "memory:learner": "skipped",
    }
    assert report["counts"] == {"passed": 5, "failed": 0, "measured": 0, "skipped": 7}
    assert report["machine"]["gpus"] == []
    assert report["versions"]["torch"] == torch.__version__
    assert len(said) == 13


@without_a_gpu
def test_a_claim_that_fails_is_told_by_the_exit_code(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("services.cli.acceptance.families.HALF_MEAN_SHARE", 0.0)
    assert accept(request(tmp_path, "parity:flux1:bfloat16:cpu"), lambda line: None) is ExitCode.BUG
    (claim,) = json.loads((tmp_path / "accept.json").read_text())["claims"]
    assert claim["status"] == "failed"
    assert claim["figures"]["largest"] > 0.0


def test_without_a_gpu_every_claim_of_one_is_named_beside_the_cpus(tmp_path) -> None:
    alone, with_gpus = names_of(tmp_path, 0), names_of(tmp_path, 2)
    assert set(with_gpus) < set(alone)
    assert {name.replace(":cpu", ":cuda") for name in alone} == set(with_gpus)
    assert not [name for name in with_gpus if name.endswith(":cpu")]
    assert len(alone) == len(set(alone))


def test_a_name_that_no_claim_has_is_told(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"expected the beginning of a claim's name \(parity, guard, sums, memory"):
        chosen(list(all_claims(load_run_file(QUICKSTART), request(tmp_path), (), tmp_path, 0)), ["paritty"])


@pytest.mark.parametrize(("gpus", "ranks", "rollouts"), [(1, (1, 0.5), (1, 0.5)), (8, (2, 1), (6, 1))])
def test_a_run_file_that_asks_for_no_gpu_gets_the_machines(gpus, ranks, rollouts) -> None:
    config = load_run_file(QUICKSTART, fleet_overrides(load_run_file(QUICKSTART), gpus))
    assert (config.fleet.learner.workers, config.fleet.learner.gpus) == ranks
    assert (config.fleet.rollout.workers, config.fleet.rollout.gpus) == rollouts


def test_a_run_file_that_asks_for_gpus_and_a_machine_without_keep_what_is_written() -> None:
    assert fleet_overrides(load_run_file(QUICKSTART), 0) == []
    assert fleet_overrides(load_run_file(Path("deploy/configs/flux1-schnell/8gpu.yaml")), 8) == []


def test_a_reward_that_rises_by_more_than_its_errors_is_learning() -> None:
    noise = [0.01, -0.01, 0.0, 0.02, -0.02]
    rising = [0.3 + 0.02 * update + noise[update % 5] for update in range(20)]
    finding = judge_history(tuple(history(rising)), 20)
    assert finding.status == "passed"
    assert finding.figures["last"] - finding.figures["first"] == pytest.approx(0.3)
    assert finding.figures["images_per_s"] > 0.0


def test_a_reward_that_only_wavers_is_not() -> None:
    wavering = [0.3 + (0.05 if update % 2 else -0.05) for update in range(20)]
    assert judge_history(tuple(history(wavering)), 20).status == "failed"


def test_a_run_that_made_fewer_updates_has_failed_however_much_it_rose() -> None:
    assert judge_history(tuple(history([0.1 * update for update in range(12)])), 20).status == "failed"
