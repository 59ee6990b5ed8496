"""Judges in a run file: those that the run serves, and the addresses that they get."""

from pathlib import Path

import pytest

from services.cli.run_file import load_run_file
from services.errors import ConfigError
from services.fleet.supervision.judges import with_addresses

QUICKSTART = Path(__file__).resolve().parents[2] / "deploy/configs/quickstart.yaml"
JUDGE = "fleet.judges=[{name: qwen, command: [vllm, serve, MODEL]}]"
ASKED = "rewards=[{use: vlm_yes_no, options: {judge: {url: 'served:qwen', model: m}}}]"


def test_a_served_judges_name_is_replaced_by_its_address_in_rewards_and_panel_alone() -> None:
    panel = "evaluation.watch.panel=[{use: vlm_rubric, options: {judge: {url: 'served:qwen', model: m}}}]"
    config = load_run_file(QUICKSTART, [ASKED, JUDGE, panel])
    found = with_addresses(config, {"qwen": "http://10.0.0.1:80/v1"})
    address = {"url": "http://10.0.0.1:80/v1", "model": "m"}
    assert found.rewards[0].options["judge"] == address
    assert found.evaluation.watch.panel[0].options["judge"] == address
    assert config.rewards[0].options["judge"]["url"] == "served:qwen"
    assert found.learning == config.learning


def test_a_judge_that_runs_elsewhere_keeps_its_address() -> None:
    config = load_run_file(QUICKSTART, [ASKED.replace("served:qwen", "http://there/v1")])
    assert with_addresses(config, {}) == config


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([ASKED], r"expected judge\.url to name one of fleet\.judges \(there is none\); found 'served:qwen'"),
        ([ASKED, JUDGE.replace("qwen", "kwen")], r"name one of fleet\.judges \(kwen\)"),
        ([JUDGE], r"fleet\.judges: qwen has no effect"),
        ([ASKED, JUDGE.replace("]}]", "]}, {name: qwen, command: [b]}]")], "expected each name once"),
        ([ASKED, "fleet.judges=[{name: qwen, command: []}]"], r"fleet\.judges\.0\.command"),
    ],
)
def test_a_judge_that_makes_no_sense_is_told_by_its_key(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_run_file(QUICKSTART, overrides)
