"""Rewards in a run file: which steps they score, and every combination that makes no sense."""

from pathlib import Path

import pytest

from services.cli.run_file import load_run_file
from services.errors import ConfigError

QUICKSTART = Path(__file__).resolve().parents[2] / "deploy/configs/quickstart.yaml"


def loaded(*overrides: str):
    return load_run_file(QUICKSTART, overrides)


def rewards(text: str) -> str:
    return f"rewards=[{text}]"


OCR = "{use: text_rendering}"


def test_a_costly_judge_on_the_final_image_alone_beside_a_scorer_of_every_step() -> None:
    config = loaded(rewards(f"{OCR}, {{use: nsfw, steps: final}}"), "learning.advantage={mode: gae}")
    dense, judge = config.rewards
    assert config.reward_steps(dense, config.sampling.behaviour()) == (0, 1, 2, 3)
    assert config.reward_steps(judge, config.sampling.behaviour()) == (3,)
    assert config.steps_scored(config.sampling.behaviour()) == (0, 1, 2, 3)


def test_steps_that_nobody_scores_are_not_decoded() -> None:
    config = loaded(rewards("{use: nsfw, steps: final}"), "learning.advantage={mode: gae}")
    assert config.steps_scored(config.sampling.behaviour()) == (3,)
    weighted = loaded(rewards("{use: nsfw, step_weights: [0, 0, 1, 2]}"), "learning.advantage={mode: to_go}")
    assert weighted.steps_scored(weighted.sampling.behaviour()) == (2, 3)


def test_a_weight_may_be_a_schedule_over_updates() -> None:
    config = loaded(rewards("{use: text_rendering, weight: {100: 0.25, 1: 1}}"))
    assert config.rewards[0].weights == ((1, 1.0), (100, 0.25))


def test_one_reward_may_be_used_twice_under_two_names() -> None:
    twice = "{use: remote, name: clip, options: {url: 'http://a'}}, {use: remote, options: {url: 'http://b'}}"
    assert [reward.title for reward in loaded(rewards(twice)).rewards] == ["clip", "remote"]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([rewards(f"{OCR}, {OCR}")], r"each reward once, found 'text_rendering' 2 times; .*rewards\[i\]\.name"),
        ([rewards("{use: a:b, name: nsfw}, {use: nsfw}")], "each reward once, found 'nsfw'"),
        ([rewards("{use: nsfw, weight: 0}")], "expected one with a weight, found only zeros"),
        ([rewards("{use: nsfw, weight: {0: 1}}")], "weights by update from 1 on"),
        ([rewards("{use: nsfw, weight: {}}")], "weights by update from 1 on"),
        ([rewards("{use: nsfw, weight: .nan}")], "expected a finite `weight`"),
        ([rewards("{use: nsfw, steps: [0, 1]}")], r"rewards\[0\] \(nsfw\): expected `steps` with the last step, 3"),
        ([rewards("{use: nsfw, steps: [3, 7]}")], r"expected `steps` among the steps that mode gain reads"),
        ([rewards("{use: nsfw, steps: [3, 3]}")], "each once"),
        (
            [rewards("{use: nsfw, steps: [1, 3]}"), "learning.advantage={mode: terminal}"],
            r"among the steps that mode terminal reads, \[3\]",
        ),
        ([rewards("{use: nsfw, steps: some}")], "rewards.0.steps"),
        ([rewards("{use: nsfw, step_weights: [0, 1, 1, 1]}")], "`step_weights` has no effect in mode gain"),
        (
            [rewards("{use: nsfw, step_weights: [0, 1, 1]}"), "learning.advantage={mode: to_go}"],
            r"expected 4 step_weights, one per image of a sample; found 3",
        ),
        (
            [rewards("{use: nsfw, step_weights: [1, 1, 1, 1]}"), "learning.advantage={mode: to_go}"],
            r"`step_weights` among the steps that mode to_go reads, \[1, 2, 3\]",
        ),
        ([rewards("{use: nsfw, steps: final, step_weights: [0, 0, 0, 1]}")], "`steps` has no effect beside"),
        ([rewards("{use: nsfw, step_weights: [0, 0, -1, 1]}")], "finite and not negative"),
        (
            [rewards(f"{OCR}, {{use: nsfw, gate: {{reward: nsfw, at_least: 0.5}}}}")],
            r"rewards\[1\] \(nsfw\): expected `gate\.reward` to name another reward of the run \(text_rendering\)",
        ),
        (
            [rewards(f"{{use: nsfw, steps: final}}, {OCR[:-1]}, gate: {{reward: nsfw, at_least: 0.5}}}}")],
            r"gate 'nsfw' to be scored wherever it is itself; found no score of it at the steps \[0, 1, 2\]",
        ),
        (
            [rewards(f"{OCR[:-1]}, gate: {{reward: a, atleast: 1}}}}")],
            r"unknown key `rewards\.0\.gate\.atleast`.*`at_least`",
        ),
    ],
)
def test_a_combination_that_makes_no_sense_is_told_by_its_key(overrides, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        loaded(*overrides)
