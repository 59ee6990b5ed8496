import pytest

from rollout.policies.build import FAMILIES, pipeline_class
from rollout.policies.twins.build import TWINS
from services.cli.twin import write_twin
from services.errors import ConfigError


def test_every_family_has_a_twin_of_its_own_pipeline_class(tmp_path) -> None:
    assert {pipeline_class(write_twin(family, tmp_path / family)) for family in TWINS} == set(FAMILIES)


def test_a_twin_is_the_same_every_time(tmp_path) -> None:
    files = [write_twin("sd3", tmp_path / name) / "transformer/diffusion_pytorch_model.safetensors" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_twin_overwrites_nothing_and_an_unknown_family_is_told(tmp_path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(ConfigError, match=r"expected an empty folder, or none; .* holds mine"):
        write_twin("sd3", tmp_path)
    with pytest.raises(ConfigError, match=r"expected a family, one of sd3, .*; found 'sd2'"):
        write_twin("sd2", tmp_path / "new")
