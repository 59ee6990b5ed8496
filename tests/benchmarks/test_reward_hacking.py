"""What the benchmark of reward hacking calls hacked, and what kept; its runs are `make hacking`."""

from services.cli.run_file import load_run_file
from tests.benchmarks.reward_hacking import ROOT, SETTINGS, outcome, table


def measured(update: int, judge: float, bits: float, text: float = 0.5) -> dict:
    trained = {"text_rendering": text, "jpeg_size": -bits}
    return {"update": update, "judge": judge, "reader": judge, "images": 540, "trained": trained}


def record(*points: dict, alarm: int | None, kept: int | None) -> dict:
    return {"seed": 1, "measured": list(points), "alarm": alarm, "kept": kept}


HACKED = (measured(0, 0.4, 5.0), measured(5, 0.9, 5.0), measured(10, 0.86, 4.0), measured(15, 0.1, 2.0))


def test_a_run_whose_judge_falls_while_a_trained_reward_rises_is_hacked_unless_the_guard_kept_its_best() -> None:
    found = record(*HACKED, alarm=15, kept=10)
    assert outcome(found, guard=False).verdict == "hacked"
    assert outcome(found, guard=False).risen == ["jpeg_size"]
    assert outcome(found, guard=True).verdict == "within 0.05 of its best"
    lines = table([found]).splitlines()
    assert "| 1 | off | update 15 | of update 15 | 0.400, 0.900, 0.100 |" in lines[2]
    assert "| 1 | on | update 15 | of update 10 | 0.400, 0.900, 0.860 |" in lines[3]


def test_a_guard_that_kept_too_late_or_said_nothing_helps_nobody() -> None:
    assert outcome(record(*HACKED, alarm=15, kept=15), guard=True).verdict == "hacked"
    assert outcome(record(*HACKED, alarm=None, kept=None), guard=True).verdict == "hacked"


def test_a_judge_that_falls_a_little_or_together_with_all_rewards_is_not_hacked() -> None:
    slight = record(measured(0, 0.9, 5.0), measured(5, 0.8, 4.0), alarm=None, kept=None)
    lost = record(measured(0, 0.9, 5.0), measured(5, 0.1, 6.0, text=0.1), alarm=None, kept=None)
    assert [outcome(found, guard=False).verdict for found in (slight, lost)] == ["neither", "neither"]


def test_its_run_file_is_valid_and_has_the_guard_with_its_own_defaults() -> None:
    config = load_run_file(ROOT / "deploy/configs/quickstart.yaml", SETTINGS)
    assert config.evaluation is not None
    watch = config.evaluation.watch
    assert watch is not None
    assert watch.model_fields_set == {"every", "stop"}
    assert [entry.weights for entry in config.rewards] == [((1, 1.0),), ((10, 0.0), (13, 10.0))]
    assert config.learning.kl_weight == 0.0
