"""The supervisor over workers that a test ends as it likes: who is replaced, who is dismissed, what is given back."""

import pytest

import services.fleet.supervision.supervisor as supervisor_module
from services.config import FleetConfig, SupervisionConfig
from services.errors import ConfigError, LearnerLost, WorkerFailed
from services.fleet.supervision.heartbeat import Pulse
from services.fleet.supervision.supervisor import Supervisor


class Reference:
    """Ready when a test says so."""

    def __init__(self) -> None:
        self.ready = False


class FakeWorker:
    def __init__(self, slot: str) -> None:
        self.slot = slot
        self.pulse = Pulse(slot, 0)
        self.loop = Reference()
        self.dead: str | None = None
        self.asked_to_leave = False
        self.node = ""

    def died_with(self, nodes: set[str]) -> bool:
        return self.node in nodes

    def death(self) -> str | None:
        return self.dead

    def call(self, method: str) -> Reference:
        return self.loop

    def leave(self) -> None:
        self.asked_to_leave = True

    def stacks(self) -> Reference:
        return Reference()

    def kill(self) -> None:
        self.dead = "killed"


class House:
    """A supervisor whose clock runs with its ticks, its workers, and what it told."""

    def __init__(self, tmp_path, monkeypatch, learners=1, **watch) -> None:
        self.now = 1000.0
        self.workers: dict[str, list[FakeWorker]] = {}
        self.released: list[str] = []
        self.notes: list[str] = []
        self.silent: set[str] = set()
        self.lost_nodes: set[str] = set()
        monkeypatch.setattr(supervisor_module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(
            supervisor_module, "finished", lambda references, timeout_s=0.0: [r for r in references if r.ready]
        )
        monkeypatch.setattr(supervisor_module, "failure", lambda reference: None)
        self.supervisor = Supervisor(
            FleetConfig(learner={"workers": learners}, supervision=SupervisionConfig(**{"backoff_s": 0.1, **watch})),
            self,
            place=self.place,
            build=self.build,
            release=self.released.append,
            folder=tmp_path,
            note=self.notes.append,
            show=lambda workers: None,
            deaths=lambda workers: {worker.slot: worker.dead for worker in workers if worker.dead},
            lost_nodes=lambda: self.lost_nodes,
        )

    def clear(self) -> None:
        pass

    def read(self) -> dict:
        beats = {}
        for slot, workers in self.workers.items():
            if slot not in self.silent:
                beats[slot] = replace_incarnation(workers[-1].pulse.beat(), len(workers) - 1)
        return beats

    def place(self, slot, spec) -> FakeWorker:
        worker = FakeWorker(slot)
        worker.pulse.enter("idle")
        self.workers.setdefault(slot, []).append(worker)
        return worker

    def build(self, member) -> Reference:
        built = Reference()
        built.ready = True
        return built

    def worker(self, slot: str) -> FakeWorker:
        return self.workers[slot][-1]

    def tick(self, seconds: float = 0.5) -> None:
        for _ in range(round(seconds / 0.5)):
            self.now += 0.5
            self.supervisor.tick()

    def states(self) -> dict[str, str]:
        return {member.slot: member.life.state.value for member in self.supervisor.members()}


def replace_incarnation(beat, incarnation):
    import msgspec

    return msgspec.structs.replace(beat, incarnation=incarnation)


@pytest.fixture
def house(tmp_path, monkeypatch):
    def open_house(**watch) -> House:
        house = House(tmp_path, monkeypatch, **watch)
        house.supervisor.start()
        house.tick()
        house.supervisor.working()
        house.tick()
        return house

    return open_house


def test_a_dead_worker_gives_back_what_it_held_and_its_slot_is_filled_again(house) -> None:
    house = house()
    assert set(house.states().values()) == {"healthy"}
    house.worker("rollout-0").dead = "process ended"
    house.tick(3)
    assert house.states()["rollout-0"] == "healthy"
    assert len(house.workers["rollout-0"]) == 2
    assert house.released == ["rollout-0"]
    assert house.notes[0] == "rollout-0 died: process ended"
    assert house.notes[1].startswith("rollout-0 is back after")


@pytest.mark.parametrize(("said", "raised"), [(ValueError("size"), ConfigError), (TypeError("bug"), TypeError)])
def test_a_worker_that_cannot_be_built_ends_the_run_with_what_it_said(tmp_path, monkeypatch, said, raised) -> None:
    house = House(tmp_path, monkeypatch)
    monkeypatch.setattr(supervisor_module, "failure", lambda reference: said)
    house.supervisor.start()
    with pytest.raises(raised, match=str(said)):
        house.tick()


def test_silence_makes_a_suspect_then_a_dead_one_and_a_beat_in_time_makes_it_well(house) -> None:
    house = house(suspect_after_s=2.0, dead_after_s=5.0)
    house.silent.add("reward-0")
    house.tick(3)
    assert house.states()["reward-0"] == "suspect"
    house.silent.clear()
    house.tick()
    assert house.states()["reward-0"] == "healthy"
    house.silent.add("reward-0")
    house.tick(6)
    assert house.workers["reward-0"][0].dead == "killed"
    assert "reward-0 died: no heartbeat for" in house.notes[0]


def test_a_dead_learner_is_told_once_and_starts_only_when_it_is_asked_for(house) -> None:
    house = house()
    house.worker("learner-0").dead = "process ended"
    with pytest.raises(LearnerLost, match="learner-0: process ended"):
        house.tick()
    house.tick(3)
    assert house.states()["learner-0"] == "restarting"
    assert house.released == [], "a learner claims nothing"
    assert house.supervisor.respawn_learner()
    house.tick()
    assert house.states()["learner-0"] == "healthy"


def test_a_worker_whose_restarts_are_spent_ends_the_run_where_it_was_the_last(house) -> None:
    house = house(restarts=1)
    house.worker("reward-0").dead = "first"
    house.tick(2)
    house.worker("reward-0").dead = "second"
    with pytest.raises(WorkerFailed, match=r"spent their restarts.*second"):
        house.tick(2)


def test_what_died_with_its_node_costs_no_restart_though_the_node_is_known_to_be_lost_only_later(house) -> None:
    house = house(restarts=1)
    for death in ("first", "second", "third"):
        house.worker("reward-0").node = death
        house.worker("reward-0").dead = "the socket was closed"
        house.tick(2)
        house.lost_nodes.add(death)
        house.tick(2)
        assert house.states()["reward-0"] == "healthy"
        assert house.notes[-1] == "reward-0 had died with its node, which is not held against it"
    house.worker("reward-0").dead = "its own"
    house.tick(2)
    figures = next(member.figures() for member in house.supervisor.members() if member.slot == "reward-0")
    assert (figures.deaths, figures.deaths_forgiven) == (4, 3)
    house.worker("reward-0").dead = "its own again"
    with pytest.raises(WorkerFailed, match=r"spent their restarts.*its own again"):
        house.tick(2)


def test_ranks_that_are_ended_because_one_lost_its_node_are_forgiven_with_it(tmp_path, monkeypatch) -> None:
    house = House(tmp_path, monkeypatch, learners=2, restarts=1)
    house.supervisor.start()
    house.tick()
    house.lost_nodes.add("gone")
    for _ in range(3):
        house.worker("learner-1").node = "gone"
        house.worker("learner-1").dead = "the socket was closed"
        with pytest.raises(LearnerLost, match="learner-1"):
            house.tick()
        house.tick(3)
        assert house.supervisor.respawn_learner()
        house.tick(2)
        assert house.states()["learner-0"] == house.states()["learner-1"] == "healthy"


def test_workers_have_their_grace_from_the_moment_they_are_to_work(tmp_path, monkeypatch) -> None:
    """Also where nobody looked before."""
    house = House(tmp_path, monkeypatch, min_healthy_grace_s=5, start_timeout_s=60)
    house.silent |= {"rollout-0"}
    house.supervisor.start()
    house.supervisor.working()
    house.tick(4.5)
    with pytest.raises(WorkerFailed, match=r"0 healthy rollout worker\(s\) for 5 s"):
        house.tick(1)


def test_a_fleet_grows_into_the_lowest_slots_and_those_that_leave_finish_first(house) -> None:
    house = house()
    house.supervisor.resize("rollout", 3)
    house.tick(1)
    assert [slot for slot in house.states() if slot.startswith("rollout")] == ["rollout-0", "rollout-1", "rollout-2"]
    assert house.supervisor.sizes() == {"rollout": 3, "reward": 1}
    house.supervisor.resize("rollout", 1)
    house.tick(1)
    assert house.states()["rollout-2"] == "draining"
    assert house.worker("rollout-2").asked_to_leave
    assert house.worker("rollout-2").dead is None, "it may finish what it has in hand"
    house.worker("rollout-2").loop.ready = house.worker("rollout-1").loop.ready = True
    house.tick(1)
    assert {house.states()[f"rollout-{index}"] for index in (1, 2)} == {"stopped"}
    assert house.worker("rollout-2").dead == "killed"
    assert sorted(house.released) == ["rollout-1", "rollout-2"]
    assert not house.worker("rollout-0").asked_to_leave
    house.supervisor.resize("rollout", 2)
    house.tick(1)
    assert house.states()["rollout-1"] == "healthy"
    assert len(house.workers["rollout-1"]) == 2


def test_a_worker_that_does_not_leave_in_time_is_ended_and_gives_back_what_it_held(house) -> None:
    house = house(drain_timeout_s=3.0)
    house.supervisor.resize("rollout", 2)
    house.tick(1)
    house.supervisor.resize("rollout", 1)
    house.tick(5)
    assert house.states()["rollout-1"] == "stopped"
    assert house.released == ["rollout-1"]
    assert "still busy" in house.notes[-1]


def test_a_run_that_ends_takes_nobody_on_any_more(house) -> None:
    house = house()
    house.supervisor.drain(5.0)
    house.supervisor.resize("rollout", 4)
    for slot in ("rollout-0", "reward-0"):
        house.worker(slot).loop.ready = True
    house.tick(1)
    assert house.states() == {"learner-0": "healthy", "rollout-0": "stopped", "reward-0": "stopped"}
    assert house.worker("rollout-0").dead is None, "it is still to evaluate"
