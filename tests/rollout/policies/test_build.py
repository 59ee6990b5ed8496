import json
from pathlib import Path

import pytest

from rollout.policies.build import FAMILIES, PolicySpec, load_policy, pipeline_class
from rollout.policies.sd3 import SD3Policy
from rollout.policies.serving import ARGUMENTS
from tests.rollout.policies import family_checks, learning_checks

ANGLES = "check_its_grid_is_the_one_the_stock_scheduler_walks"
"""SANA-Sprint's scheduler walks angles instead; its own test compares those."""


def test_the_family_is_chosen_by_the_folders_index(without_t5):
    assert pipeline_class(without_t5) == "StableDiffusion3Pipeline"
    assert isinstance(load_policy(PolicySpec(folder=without_t5)), SD3Policy)


def test_for_every_family_it_is_known_how_its_stock_pipeline_is_called():
    assert ARGUMENTS.keys() == FAMILIES.keys()


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"found no .*model_index\.json; change `model\.path`"):
        pipeline_class(tmp_path)


def test_an_unknown_family_is_refused_with_those_that_are_supported(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "OtherPipeline"}))
    with pytest.raises(ValueError, match=r"declares OtherPipeline; supported are StableDiffusion3Pipeline"):
        load_policy(PolicySpec(folder=tmp_path))


@pytest.mark.parametrize("place", FAMILIES.values())
def test_every_family_is_put_through_every_check(place):
    name = place.partition(":")[0].rpartition(".")[2]
    tests = (Path(__file__).parent / f"test_{name}.py").read_text()
    wanted = [check for check in vars(family_checks) if check.startswith("check_")]
    assert len(wanted) >= 13
    wanted += [check for check in vars(learning_checks) if check.startswith("check_")]
    missing = {check for check in wanted if f"checks.{check}(" not in tests}
    assert missing == ({ANGLES} if name == "sana_sprint" else set())
