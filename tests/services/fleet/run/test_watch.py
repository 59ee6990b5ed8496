"""When a run is looked at, how its ranks' shares are put together, and what an alarm does."""

from pathlib import Path

import pytest

from services.cli.run_file import load_run_file
from services.errors import ConfigError
from services.fleet.messages import LookPart
from services.fleet.run.watch import Watch, build_watch, merged
from services.observe.hacking import Look, append_look, read_looks

QUICKSTART = Path(__file__).resolve().parents[4] / "deploy/configs/quickstart.yaml"


def config(*settings: str):
    return load_run_file(QUICKSTART, [f"evaluation.watch.{setting}" for setting in settings or ("every=5",)])


def part(value: float) -> dict:
    return {
        "trained": {"text_rendering": [value] * 2},
        "panel": {"judge_exact_match": [value, value + 0.25]},
        "statistics": {"diversity": [value]},
    }


class Ranks:
    """Answers like a fleet of learner ranks, three prompts between them."""

    def __init__(self, size: int) -> None:
        self.size = size

    def look(self) -> list[LookPart]:
        prompts = [part(0.1), part(0.2), part(0.3)]
        return [LookPart(parts=tuple(prompts[rank :: self.size])) for rank in range(self.size)]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_look_is_the_same_however_many_ranks_shared_it(size: int) -> None:
    found = merged(7, Ranks(size).look())
    assert found == merged(7, Ranks(1).look())
    assert found.panel["judge_exact_match"] == [0.1, 0.35, 0.2, 0.45, 0.3, 0.55]
    assert found.statistics["diversity"] == pytest.approx(0.2)


def test_a_run_is_looked_at_before_training_and_every_so_many_updates_and_never_twice(tmp_path) -> None:
    watch = Watch(config("every=5"), tmp_path, 0)
    assert watch.verdict is None
    assert [update for update in range(12) if watch.due(update)] == [0, 5, 10]
    watch.look(Ranks(1), 5)
    assert not watch.due(5)
    assert [look.update for look in read_looks(tmp_path)] == [5]
    assert not Watch(config("every=5"), tmp_path, 7).due(5)
    assert Watch(config("every=5"), tmp_path, 4).due(5), "a look at an update that was taken back counts no more"


def test_a_run_that_hacks_its_reward_is_halted_only_where_it_is_asked_for_and_stays_so(tmp_path) -> None:
    for update, (trained, held_out) in enumerate([(0.2, 0.6), (0.6, 0.4), (0.9, 0.2)]):
        scores = {"text_rendering": [trained] * 8}, {"judge_exact_match": [held_out] * 8}
        append_look(tmp_path, Look(update=update, trained=scores[0], panel=scores[1], statistics={}))
    assert Watch(config("stop=true"), tmp_path, 2).halts
    assert not Watch(config("stop=false"), tmp_path, 2).halts
    assert not Watch(config("stop=true"), tmp_path, 1).halts


def test_without_a_watch_nothing_is_looked_at(tmp_path) -> None:
    assert build_watch(load_run_file(QUICKSTART), tmp_path, 0) is None


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("panel=[{use: text_rendering}]", "expected rewards that are not trained, found text_rendering"),
        ("panel=[{use: nsfw, weight: 2}]", "weight has no effect on nsfw, which is not trained"),
        ("panel=[{use: nsfw}, {use: nsfw}]", "expected each reward once"),
        ("panel=[]", "evaluation.watch.panel"),
        ("evry=3", "unknown key `evaluation.watch.evry`; the nearest valid one is `every`"),
    ],
)
def test_a_panel_that_makes_no_sense_is_told_by_its_key(setting: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config(setting)
