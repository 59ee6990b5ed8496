"""The run's real workers, each on a server where its user may do no more than its own work."""

import threading
import time
from pathlib import Path

import pytest

from rewards.tally import Tally
from services.cli.run_file import load_run_file
from services.data.blobs import build_blobs
from services.data.lease import Sweeping
from services.data.queue import Ledger, Queue
from services.data.server import EmbeddedServer, connect
from services.data.wire import ScoredEntry, decode
from services.fleet.messages import EvaluationTask, Link, RankPlace, UpdateOrder
from services.fleet.supervision.heartbeat import Hearts
from services.fleet.workers.learner_worker import LearnerWorker
from services.fleet.workers.reward_worker import RewardWorker
from services.fleet.workers.rollout_worker import RolloutWorker

from ...data.server_users import Users

pytestmark = pytest.mark.integration

QUICKSTART = Path(__file__).resolve().parents[4] / "deploy/configs/quickstart.yaml"
SMALL = ("name=run", "learning.updates=2", "learning.groups_per_update=2", "sampling.samples_per_group=4")
DEADLINE_S = 240.0


def test_real_workers_make_two_updates_without_being_refused_anything(tmp_path) -> None:
    config = load_run_file(QUICKSTART, [*SMALL, f"runs={tmp_path}", "evaluation.images=108"])
    with EmbeddedServer() as server:
        admin = connect(server.url)
        users = Users(server, admin, tmp_path / "users")

        def link(role: str) -> Link:
            return Link(redis_url=users.urls[role], run="run", slot=f"{role}-0")

        driver = users.clients["driver"]
        queue, blobs = Queue(driver, "run"), build_blobs("redis://", driver, "run")
        epoch = queue.begin(Ledger(groups_per_update=2, max_staleness=1, total_groups=4))
        learner = LearnerWorker(config, link("learner"), RankPlace())
        version = learner.publish(1, 0, epoch)
        workers = [RolloutWorker(config, link("rollout")), RewardWorker(config, link("reward"))]
        threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        with Sweeping(queue, 60.0):
            for update in (1, 2):
                batch = two_groups(queue)
                order = UpdateOrder(
                    entries=tuple(claimed.payload for claimed in batch),
                    version=version.version + 1,
                    lineage=0,
                    epoch=epoch,
                    fresh=False,
                    check_one=True,
                )
                version = learner.update(order).version
                queue.finish_update(update, batch, [claimed.ordinal for claimed in batch])
                blobs.delete([ref for claimed in batch for ref in decode(claimed.payload, ScoredEntry).group.latents])
        wait_for_tally(driver)
        queue.request_stop("done")
        for thread in threads:
            thread.join(DEADLINE_S)
        average = learner.publish_average(version.version + 1, 0, epoch)
        task = EvaluationTask(version=average, temperatures=(1.0,), share=0, shares=108)
        assert workers[0].evaluate(task).images == 1
        assert Queue(users.clients["exporter"], "run").statistics().consumed == 4
        assert users.refused() == []
        assert users.connected() >= {"tafs-driver", "tafs-learner", "tafs-rollout", "tafs-reward", "tafs-exporter"}
        users.close()
        admin.close()


def two_groups(queue: Queue):
    """The next two scored groups, lowest first."""
    batch, deadline = [], time.monotonic() + DEADLINE_S
    while len(batch) < 2:
        assert time.monotonic() < deadline, queue.statistics()
        queue.admit(0)
        batch += queue.claim("scored", "controller/a", 2 - len(batch), 500)
    return sorted(batch, key=lambda claimed: claimed.ordinal)


def wait_for_tally(driver) -> None:
    """The reward worker's heart tells of every image of the four groups, at each of four steps."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        beat = Hearts(driver, "run").read()["reward-0"]
        tally = beat.rewards.get("text_rendering", Tally())
        if tally.images == 4 * 4 * 4:
            assert (tally.failures, tally.calls > 0, tally.seconds > 0.0) == (0, True, True)
            return
        assert time.monotonic() < deadline, beat
        time.sleep(0.05)
