"""The pace of a run: against a simulation of the stages, and against step times that others published."""

import heapq
from pathlib import Path

import pytest

from services.cli.run_file import load_run_file
from services.fleet.planning.throughput import Latencies, pace, pace_lines, parse_latencies

QUICKSTART = Path(__file__).resolve().parents[4] / "deploy/configs/quickstart.yaml"
PUBLISHED = (  # seconds of generation, old log-probabilities and update, and of the step that they make
    (357.41, 107.71, 313.81, 790.10),
    (150.72, 70.26, 133.41, 365.28),
    (177.85, 53.92, 113.81, 356.30),
)
"""verl's documentation, docs/advance/fully_async.md at commit 2147009822388b70cda46ab4a27c5400d3d113ed: the synchronous
runs of Qwen2.5-Math-7B on 32, 64 and 128 cards.
"""


def run(**fleet):
    """A run file with 8 groups an update of 12 samples, and these numbers of workers."""
    staleness = fleet.pop("staleness", 1)
    workers = [f"fleet.{role}.workers={number}" for role, number in fleet.items()]
    return load_run_file(QUICKSTART, [f"fleet.max_staleness={staleness}", "learning.groups_per_update=8", *workers])


def simulated(config, latencies, updates):
    """Seconds an update of a queue with as many servers as there are workers; drawing is a lap ahead at most."""
    rollouts, rewards = ([0.0] * role.workers for role in (config.fleet.rollout, config.fleet.reward))
    groups, learned, done = config.learning.groups_per_update, [0.0], 0.0
    for update in range(updates):
        allowed = learned[max(0, len(learned) - 1 - config.fleet.max_staleness)]
        scored = []
        for _ in range(groups):
            drawn = max(heapq.heappop(rollouts), allowed) + latencies.sample + latencies.decode
            heapq.heappush(rollouts, drawn)
            end = max(heapq.heappop(rewards), drawn) + latencies.score
            heapq.heappush(rewards, end)
            scored.append(end)
        done = max(*scored, done) + latencies.update / config.fleet.learner.workers + latencies.publish
        learned.append(done)
        assert len(learned) == update + 2
    return (learned[-1] - learned[updates // 2]) / (updates - updates // 2)


@pytest.mark.parametrize(
    ("workers", "latencies"),
    [
        ({"rollout": 1, "reward": 1, "learner": 1}, Latencies(sample=1.0, decode=0.5, score=0.4, update=5.0)),
        ({"rollout": 4, "reward": 1, "learner": 1}, Latencies(sample=1.0, decode=0.5, score=0.4, update=5.0)),
        ({"rollout": 4, "reward": 2, "learner": 4}, Latencies(sample=1.0, decode=0.5, score=3.0, update=5.0)),
        (
            {"rollout": 2, "reward": 2, "learner": 2},
            Latencies(sample=2.0, decode=0.1, score=0.1, update=9.0, publish=1),
        ),
    ],
)
@pytest.mark.parametrize("staleness", [0, 1])
def test_the_pace_is_that_of_a_simulated_queue(workers, latencies, staleness) -> None:
    config = run(staleness=staleness, **workers)
    error = pace(config, latencies).update_s / simulated(config, latencies, 200) - 1.0
    assert -0.12 < error < 0.01, "what is left out may only make the truth slower, and not by much"


def test_the_slowest_role_never_waits_when_all_work_side_by_side() -> None:
    found = pace(run(rollout=2, reward=1, learner=1), Latencies(sample=1.0, decode=1.0, score=0.1, update=2.0))
    assert found.idle["rollout"] == 0.0
    assert found.idle["learner"] == pytest.approx(0.75)
    assert found.images_per_s == pytest.approx(8 * 12 / 8.0)


@pytest.mark.parametrize(("generation", "log_probabilities", "update", "step"), PUBLISHED)
def test_the_step_of_another_system_follows_from_its_latencies(generation, log_probabilities, update, step) -> None:
    """Synchronous, a whole fleet at each phase in turn; the old log-probabilities are in the scorer's place, all at the
    end of the generation, so that nothing of them overlaps.
    """
    config = load_run_file(QUICKSTART, ["fleet.max_staleness=0", "learning.groups_per_update=1"])
    found = pace(config, Latencies(sample=generation, decode=0.0, score=log_probabilities, update=update))
    error = found.update_s / step - 1.0
    assert -0.031 < error < 0.0, f"predicted {found.update_s:.2f} s, published {step:.2f} s: {error:+.1%}"


def test_latencies_are_read_from_a_text_and_told_as_lines() -> None:
    latencies = parse_latencies("sample=1 decode=1 score=0.1 update=2")
    assert latencies == Latencies(sample=1.0, decode=1.0, score=0.1, update=2.0)
    first, second = pace_lines(run(rollout=2, reward=1, learner=1), latencies)
    assert first == "pace, from the given latencies: 8 s an update, 12 images/s at most"
    assert second == "  waiting: rollout 0%, reward 90%, learner 75%"


@pytest.mark.parametrize(
    "text", ["", "sample=1", "sample=1 decode=1 score=1 update=x", "sample=1 decode=1 score=1 update=1 a=2"]
)
def test_what_is_not_latencies_is_told(text) -> None:
    with pytest.raises(ValueError, match="--latency: expected seconds"):
        parse_latencies(text)
