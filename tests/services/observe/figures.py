"""What a run that never happened would tell its metrics, beside its records."""

from rewards.tally import Tally
from services.observe.hacking import Look, Scale, judge
from services.observe.journeys import Journey, Stage
from services.observe.metric_cells import QueueFigures, RunFacts, StageFigures
from services.observe.workers import WorkerFigures

FACTS = RunFacts(
    started=1_759_999_000.0,
    began="2025-10-09T08:36:40Z",
    planned_updates=300,
    commit="abc1234",
    model="model",
    advantage="control_variate",
    max_staleness=1,
)
QUEUE = QueueFigures(
    stages={
        "tickets": StageFigures(entries=1, pending=1, oldest_age_s=1.0, failures=0),
        "groups": StageFigures(entries=3, pending=1, oldest_age_s=2.5, failures=2),
        "scored": StageFigures(entries=0, pending=0, oldest_age_s=0.0, failures=0),
    },
    evictions={"lineage": 2},
    dispatched=40,
    consumed=32,
    dead=1,
    duplicates=0,
    in_flight=5,
    memory_used_bytes=1_000_000_000,
    memory_limit_bytes=4_000_000_000,
    payload_bytes=3_000_000,
)
JOURNEY = Journey(
    gid="4/0",
    prompt="p4",
    weights=2,
    update=1,
    version=3,
    lineage=0,
    rewards={"ocr": 0.5},
    stages=(
        Stage(name="ticket waits", slot="", began=10.0, ended=10.5),
        Stage(name="drawing", slot="rollout-0", began=10.5, ended=12.5),
    ),
)
LOOK = Look(
    update=2, trained={"ocr": [0.25, 0.75]}, panel={"reader": [1.0, 0.0, 0.0, 1.0]}, statistics={"diversity": 0.3}
)
VERDICT = judge([LOOK], Scale(widths={"reader": 1.0}, signs={"ocr": 1.0}, fall=0.1, looks=1))


def make_worker(role: str, replica: int, *, version: int = 3, digest: str = "aa", **different: object) -> WorkerFigures:
    """A worker in good health."""
    fields = {
        "slot": f"{role}-{replica}",
        "role": role,
        "state": "healthy",
        "reason": "",
        "deaths": 0,
        "incarnation": 0,
        "pid": 17,
        "host": "here",
        "phase": "idle",
        "work": "",
        "silence_s": 0.4,
        "busy_s": 8.0,
        "idle_s": 2.0,
        "groups": 5,
        "images": 80,
        "version": version,
        "digest": digest,
    }
    return WorkerFigures(**{**fields, **different})


WORKERS = (
    make_worker("learner", 0),
    make_worker("rollout", 0),
    make_worker("rollout", 1, version=2, digest="bb", deaths=1, state="suspect"),
    make_worker(
        "reward",
        0,
        version=0,
        digest="",
        rewards={
            "ocr": Tally(calls=3, images=96, seconds=0.5),
            "judge": Tally(calls=4, failures=1, images=24, seconds=6, retries=9, breakers_open=1),
        },
    ),
    make_worker("reward", 1, version=0, digest="", rewards={"ocr": Tally(calls=2, images=64, seconds=0.25)}),
)
