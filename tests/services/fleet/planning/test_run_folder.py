"""The run folder has one owner, and goes on only with the configuration it was made with."""

import json
from pathlib import Path

import pytest

from services.cli.run_file import load_run_file
from services.errors import ConfigError
from services.fleet.planning.run_folder import config_digest, difference, owned, recorded_config, recorded_provenance

QUICKSTART = Path(__file__).resolve().parents[4] / "deploy/configs/quickstart.yaml"


@pytest.fixture
def config(tmp_path):
    return lambda *overrides: load_run_file(QUICKSTART, [f"runs={tmp_path}", *overrides])


def test_a_folder_goes_on_with_the_same_configuration(config) -> None:
    for _ in range(2):
        with owned(config(), fresh=False) as folder:
            assert (folder / "config.yaml").exists()


def test_a_folder_says_when_its_first_start_was_over_all_of_them(config) -> None:
    with owned(config(), fresh=False) as folder:
        made = recorded_provenance(folder)
        assert made["began"].endswith("Z")
        made["began"] = "2020-01-01T00:00:00Z"
        (folder / "run.json").write_text(json.dumps(made))
    with owned(config(), fresh=False) as folder:
        assert recorded_provenance(folder)["began"] == "2020-01-01T00:00:00Z"
    with owned(config(), fresh=True) as folder:
        assert recorded_provenance(folder)["began"] > "2020-01-01T00:00:00Z"


def test_a_run_starts_where_there_is_no_git(config, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with owned(config(), fresh=False) as folder:
        assert recorded_provenance(folder)["commit"] == "unknown"


@pytest.mark.parametrize("left", [["run.json.part"], ["run.json"], ["run.json", "config.yaml.part"]])
def test_a_first_start_that_was_killed_while_it_wrote_the_folder_is_made_again(config, tmp_path, left) -> None:
    with owned(config("name=whole"), fresh=False) as whole:
        pass
    folder = config().folder
    folder.mkdir()
    for name in left:
        text = (whole / name.removesuffix(".part")).read_text()
        (folder / name).write_text(text[:20] if name.endswith(".part") else text)
    with owned(config(), fresh=False):
        assert recorded_config(folder).name == config().name


def test_a_changed_configuration_is_refused_with_the_difference(config) -> None:
    with owned(config(), fresh=False):
        pass
    with (
        pytest.raises(ConfigError, match=r"learning\.rate: 0\.0004 -> 0\.5"),
        owned(config("learning.rate=0.5"), fresh=False),
    ):
        pass


def test_where_a_run_is_executed_may_change_but_not_its_staleness(config) -> None:
    with owned(config(), fresh=False):
        pass
    with owned(config("fleet.rollout.workers=3"), fresh=False):
        pass
    with pytest.raises(ConfigError, match=r"fleet\.max_staleness"), owned(config("fleet.max_staleness=3"), fresh=False):
        pass


def test_a_changed_prompt_file_is_refused(config, tmp_path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "write 1", "metadata": {"target": "1"}}\n')
    changed = config(f"sampling.prompts={prompts}")
    with owned(changed, fresh=False):
        pass
    prompts.write_text('{"text": "write 2", "metadata": {"target": "2"}}\n')
    with pytest.raises(ConfigError, match=r"sampling\.prompts: "), owned(changed, fresh=False):
        pass


def test_starting_anew_moves_the_old_run_aside(config, tmp_path) -> None:
    with owned(config(), fresh=False) as folder:
        (folder / "history.jsonl").write_text("old")
    with owned(config("learning.rate=0.5"), fresh=True) as folder:
        assert not (folder / "history.jsonl").exists()
    aside = list(tmp_path.glob("quickstart.until-*/history.jsonl"))
    assert [path.read_text() for path in aside] == ["old"]


def test_a_folder_in_use_is_refused(config) -> None:
    with (
        owned(config(), fresh=False),
        pytest.raises(ConfigError, match="belongs to a run that is going on"),
        owned(config(), fresh=False),
    ):
        pass


def test_the_digest_follows_what_is_computed_and_not_where(config) -> None:
    assert config_digest(config()) == config_digest(config("fleet.rollout.workers=3"))
    assert config_digest(config()) != config_digest(config("seed=9"))


def test_a_difference_names_every_changed_setting() -> None:
    assert difference({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}) == [
        "a.c: 2 -> 4",
        "d: 3 -> None",
        "e: None -> 5",
    ]
