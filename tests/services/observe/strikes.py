"""The faults of the runbook as they can be done to a run that never happened: each takes a `Run` and breaks it."""

import time
from collections.abc import Callable
from dataclasses import replace

import msgspec

from services.observe.hacking import Scale, judge
from services.observe.history import UpdateRecord
from services.observe.metric_cells import Saved
from services.observe.workers import WorkerFigures

from .figures import LOOK, QUEUE
from .watchers import Run

STANDS_S = 600.0
"""How long what does not move has not moved: longer than any alert wants."""


def die(run: Run) -> None:
    run.die()


def lose_redis(run: Run) -> None:
    run.redis_lives = False


def stop_learning(run: Run) -> None:
    """The last update is long past."""

    def past(record: UpdateRecord) -> UpdateRecord:
        return msgspec.structs.replace(record, unix_time=time.time() - STANDS_S)

    run.change_record = past


def lose_redis_for_long(run: Run) -> None:
    lose_redis(run)
    stop_learning(run)


def fill_server(run: Run) -> None:
    run.queue = replace(QUEUE, memory_used_bytes=QUEUE.memory_limit_bytes)


def fill_server_for_good(run: Run) -> None:
    fill_server(run)
    stop_learning(run)


def hold_groups(run: Run, stage: str) -> None:
    """A group stands in the stage and does not move."""
    held = replace(QUEUE.stages[stage], oldest_age_s=STANDS_S)
    run.queue = replace(QUEUE, stages={**QUEUE.stages, stage: held})


def hang_one_reward_worker(run: Run) -> None:
    hold_groups(run, "groups")


def hang_all_reward_workers(run: Run) -> None:
    hold_groups(run, "groups")
    stop_learning(run)


def hang_all_rollout_workers(run: Run) -> None:
    hold_groups(run, "tickets")
    stop_learning(run)


def fail(run: Run, stage: str, dead: int = QUEUE.dead) -> None:
    failing = replace(QUEUE.stages[stage], failures=60)
    run.queue = replace(QUEUE, stages={**QUEUE.stages, stage: failing}, dead=dead)


def fail_to_draw(run: Run) -> None:
    fail(run, "tickets")


def fail_to_score(run: Run) -> None:
    fail(run, "groups")


def lose_reward_service(run: Run) -> None:
    fail(run, "groups", dead=20)


def poison_prompt(run: Run) -> None:
    run.queue = replace(QUEUE, dead=QUEUE.dead + 1)


def draw_in_vain(run: Run) -> None:
    run.queue = replace(QUEUE, evictions={"lineage": 60})


def hack_reward(run: Run) -> None:
    now = msgspec.structs.replace(LOOK, trained={"ocr": [1.0, 1.0]}, panel={"reader": [0.0, 0.0, 0.0, 0.0]})
    before = msgspec.structs.replace(LOOK, trained={"ocr": [0.0, 0.0]}, panel={"reader": [1.0, 1.0, 1.0, 1.0]})
    run.metrics.look(now, judge([before, now], Scale(widths={"reader": 1.0}, signs={"ocr": 1.0}, fall=0.1, looks=1)))


def overflow_gradients(run: Run) -> None:
    def useless(record: UpdateRecord) -> UpdateRecord:
        return msgspec.structs.replace(record, report={**record.report, "trained": False})

    run.change_record = useless


def never_save(run: Run) -> None:
    run.saved = Saved(unix_time=time.time() - 2 * 3600.0, seconds=0.1)


def change_workers(run: Run, role: str, **fields: object) -> None:
    """From now on the role's workers have these figures."""
    so_far = run.change_worker

    def changed(worker: WorkerFigures) -> WorkerFigures:
        worker = so_far(worker)
        return msgspec.structs.replace(worker, **fields) if worker.role == role else worker

    run.change_worker = changed


def kill_rollout_workers(run: Run) -> None:
    change_workers(run, "rollout", deaths=4)


def kill_the_learner(run: Run) -> None:
    change_workers(run, "learner", deaths=9)
    stop_learning(run)


def give_up_a_worker(run: Run) -> None:
    change_workers(run, "reward", state="failed")


def keep_old_weights(run: Run) -> None:
    change_workers(run, "rollout", version=1)


def hold_different_weights(run: Run) -> None:
    change_workers(run, "rollout", digest="not the learner's")


def damage_weights(run: Run) -> None:
    run.queue = replace(QUEUE, evictions={**QUEUE.evictions, "WeightsCorrupt": 1})


STRIKES: dict[str, Callable[[Run], None]] = {
    "the process of the run is killed": die,
    "the server does not answer": lose_redis,
    "the server does not answer for long": lose_redis_for_long,
    "the server is full": fill_server,
    "the server is full, and not of this run": fill_server_for_good,
    "the learner hangs": stop_learning,
    "one of several reward workers hangs with a group in hand": hang_one_reward_worker,
    "all rollout workers hang": hang_all_rollout_workers,
    "a scorer hangs in all reward workers": hang_all_reward_workers,
    "rollouts fail": fail_to_draw,
    "a reward raises, or gives what is no number, now and then": fail_to_score,
    "a reward service is down": lose_reward_service,
    "one prompt that no reward can score": poison_prompt,
    "groups are drawn in vain": draw_in_vain,
    "the reward is hacked": hack_reward,
    "gradients overflow": overflow_gradients,
    "checkpoints are too rare": never_save,
    "workers are killed again and again": kill_rollout_workers,
    "the learner is killed again and again": kill_the_learner,
    "a worker has spent its restarts": give_up_a_worker,
    "a rollout worker does not see new weights": keep_old_weights,
    "two workers hold different weights under one version": hold_different_weights,
    "weights arrive damaged": damage_weights,
}
"""By the runbook's name of the fault. What needs a history that is long gone wrong is left to promtool: a slow server,
too few workers, a lost policy, pairs that are dropped.
"""
