"""The claims of `tafs accept` that are small enough for a test, on a CUDA device. Never run on one so far."""

import pytest

from services.cli.acceptance.claim import look_at
from services.cli.acceptance.families import family_claims
from services.cli.acceptance.ranks import sums_agree
from services.cli.acceptance.run_claims import memory_fits
from services.cli.run_file import load_run_file

QUICKSTART = "deploy/configs/quickstart.yaml"


@pytest.fixture(scope="module")
def claims(tmp_path_factory):
    return {claim.name: claim for claim in family_claims(tmp_path_factory.mktemp("twins"), "cuda")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["sd3", "flux1", "flux2_klein", "sana_sprint", "z_image", "qwen_image"])
@pytest.mark.parametrize("kind", ["parity", "guard"])
def test_a_family_keeps_its_promise_on_a_gpu(claims, kind, family, dtype) -> None:
    outcome = look_at(claims[f"{kind}:{family}:{dtype}:cuda"], gpus=1)
    assert outcome.status == "passed", outcome


def test_ranks_have_equal_sums_over_nccl(tmp_path) -> None:
    import torch

    finding = sums_agree(tmp_path, torch.cuda.device_count())
    assert finding.status == "passed", finding


@pytest.mark.parametrize("role", ["rollout", "learner"])
def test_the_allocators_peak_is_measured(role) -> None:
    finding = memory_fits(load_run_file(QUICKSTART), role)
    assert finding.figures["measured_gib"] > 0.0
