"""A role's size follows its work: the real queue's signal, decisions once a window, bounds and requests."""

import time
from types import SimpleNamespace

import pytest

import services.fleet.supervision.elastic as elastic_module
from services.config import FleetConfig, RoleConfig, ScalingConfig, SupervisionConfig
from services.data.queue import Ledger, Queue, new_owner
from services.data.server import EmbeddedServer, connect
from services.fleet.supervision.asked import Requests
from services.fleet.supervision.elastic import Elastic

pytestmark = pytest.mark.integration
EVERY_S = 10.0


class Shift:
    """Rollout workers whose time a test tells, in the supervisor's place."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.busy_s = self.idle_s = 0.0

    def sizes(self) -> dict[str, int]:
        return {"rollout": self.workers, "reward": 1}

    def resize(self, role: str, workers: int) -> None:
        assert role == "rollout"
        self.workers = workers

    def members(self, role: str) -> list:
        busy_s, idle_s = (self.busy_s, self.idle_s) if role == "rollout" else (0.0, 0.0)
        return [SimpleNamespace(totals=SimpleNamespace(busy_s=busy_s, idle_s=idle_s))]


class House:
    """A queue with twelve tickets, and a clock that a test moves."""

    def __init__(self, redis, monkeypatch, workers: int) -> None:
        self.now = 1000.0
        monkeypatch.setattr(elastic_module.time, "monotonic", lambda: self.now)
        self.queue = Queue(redis, "run")
        self.queue.begin(Ledger(groups_per_update=12, max_staleness=0, total_groups=100))
        self.queue.admit(time.time_ns() // 1_000_000)
        self.shift = Shift(workers)
        self.notes: list[str] = []
        self.requests = Requests(redis, "run")
        fleet = FleetConfig(
            rollout=RoleConfig(workers=workers),
            scaling=ScalingConfig(rollout=(2, 6), every_s=EVERY_S),
            supervision=SupervisionConfig(),
        )
        self.elastic = Elastic(
            fleet, self.shift, self.queue, self.requests, drain=self.notes.append, note=self.notes.append
        )

    def work(self, seconds: float, busy: float) -> None:
        """The time passes, of which the workers are busy for this share."""
        for _ in range(round(seconds)):
            self.now += 1.0
            self.shift.busy_s += busy * self.shift.workers
            self.shift.idle_s += (1.0 - busy) * self.shift.workers
            self.elastic.tick()


@pytest.fixture(scope="module")
def server():
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
def house(server, monkeypatch):
    redis = connect(server.url)
    redis.flushall()
    yield lambda workers: House(redis, monkeypatch, workers)
    redis.close()


def test_a_fleet_grows_with_what_waits_up_to_its_most_and_shrinks_to_its_least_when_nothing_does(house) -> None:
    found = house(workers=2)
    found.work(EVERY_S + 2, busy=0.95)
    assert found.shift.workers == 3
    assert "2 -> 3 workers (busy 95%, 12.0 waiting)" in found.notes[-1]
    found.work(4 * EVERY_S, busy=0.95)
    assert found.shift.workers == 6
    owner = new_owner("rollout-0")
    assert len(found.queue.claim("tickets", owner, 12, 0)) == 12
    found.work(8 * EVERY_S, busy=0.3)
    assert found.shift.workers == 2


def test_a_fleet_decides_once_a_window_and_not_before(house) -> None:
    found = house(workers=2)
    found.work(EVERY_S - 2, busy=0.95)
    assert found.shift.workers == 2
    assert found.notes == []


def test_what_is_asked_counts_at_once(house) -> None:
    found = house(workers=2)
    found.requests.ask_workers({"rollout": 5})
    found.work(2, busy=0.6)
    assert found.shift.workers == 5
