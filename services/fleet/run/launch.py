"""A training run from its run file to its report.

run folder -> server -> Ray -> workers -> restore -> updates -> before and after -> adapter, summary, report
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from services.config import RunConfig
from services.data.blobs import BlobStore, build_blobs
from services.data.lease import Beat, Sweeping
from services.data.orphans import OrphanSweeper
from services.data.queue import Queue
from services.data.server import connect, impatient
from services.errors import ConfigError, ExitCode
from services.fleet.messages import Progress
from services.fleet.planning.preflight import check_inputs, check_places, check_reach, check_room
from services.fleet.planning.run_folder import checkpoints_of, config_digest, owned
from services.fleet.run.admission import LEAST_PATIENCE_S
from services.fleet.run.controller import Controller
from services.fleet.run.finish import back_to_the_best, finish
from services.fleet.run.lineage import resumed
from services.fleet.run.recorder import SCRAPE_TIMEOUT_S, Recorder
from services.fleet.run.run_server import RunServer, run_server
from services.fleet.run.session import Session
from services.fleet.run.stop import StopSign
from services.fleet.run.watch import BEST_FOLDER, build_watch
from services.fleet.supervision.actors import cluster_nodes, cluster_resources, ray_session
from services.fleet.supervision.asked import Requests
from services.fleet.supervision.elastic import Elastic
from services.fleet.supervision.fleet import Fleet
from services.fleet.supervision.heartbeat import REDIS_TIMEOUT_S
from services.fleet.supervision.judges import served_judges
from services.observe.log import JsonLines
from services.observe.report import write_report

ORPHAN_GRACE_S = 600.0
"""A blob that no group in flight has named for so long was left by a worker that died."""


def train(config: RunConfig, *, fresh: bool, console: Console, lines: JsonLines | None = None) -> ExitCode:
    """Run, or go on with, a training run; `lines` for its output as JSON, with the console writing into it.

    Raises the errors of `services.errors`; resources are released always.
    """
    started = time.monotonic()
    check_inputs(config)
    with ExitStack() as stack:
        folder = stack.enter_context(owned(config, fresh=fresh))
        stop = stack.enter_context(StopSign(console))
        server = stack.enter_context(run_server(config, folder))
        exporter = connect(config.fleet.redis_users.url_of("exporter", server.url))
        scraped = Queue(impatient(exporter, SCRAPE_TIMEOUT_S), config.name)
        recorder = stack.enter_context(Recorder(config, folder, server.queue, scraped, console, lines))
        recorder.watch_ray(stack.enter_context(ray_session()))
        stop.arm()  # Ray takes SIGTERM for itself when it starts
        _check_cluster(config)
        console.print(f"run folder {folder}, metrics {recorder.metrics_url}", highlight=False)
        note = partial(_note, recorder, console)
        fleet = _open_fleet(stack, config, folder, server, recorder, stop, note)
        blobs = _open_blobs(stack, config, server)
        session = Session(config, folder, fleet, recorder, console, checkpoints_of(config, folder), watch=None)

        def rolled_back(update: int) -> None:  # by then the session has its watch
            session.rolled_back(update)

        controller = Controller(
            config,
            fleet,
            server.queue,
            blobs,
            recorder.take,
            checkpoints=session.checkpoints,
            note=note,
            rolled_back=rolled_back,
        )
        progress = session.with_learner(lambda: controller.begin(_restore(session)))
        session = replace(session, watch=build_watch(config, folder, progress.update))
        progress = _train(session, controller, server.queue, progress, stop)
        if session.halted:
            session = replace(session, checkpoints=folder / BEST_FOLDER)
            progress = back_to_the_best(session, progress)
        elif progress.update < config.learning.updates:
            console.print(f"stopped after update {progress.update}; the same command goes on from there")
            write_report(folder, planned_updates=config.learning.updates)
            return ExitCode.DRAINED
        finish(session, controller, progress, wall_seconds=time.monotonic() - started)
    return ExitCode.DONE


def _check_cluster(config: RunConfig) -> None:
    """ConfigError where the run can never have its room; where it may wait for it, the fleet asks for it instead."""
    check_reach(config, cluster_nodes())
    if config.fleet.room_timeout_s == 0.0:
        check_room(config.fleet, cluster_resources())
        check_places(config.fleet, cluster_nodes())


def _open_fleet(
    stack: ExitStack,
    config: RunConfig,
    folder: Path,
    server: RunServer,
    recorder: Recorder,
    stop: StopSign,
    note: Callable[[str], None],
) -> Fleet:
    """The started workers, judges first; between any two steps of the run they are watched, and as many as asked."""

    def keep_server() -> None:
        if server.restarted():
            note("the run's own server died, and was started again")

    judges = stack.enter_context(served_judges(config, folder, note))
    fleet = Fleet(
        judges.config,
        server.redis,
        server.url,
        release=server.release,
        note=note,
        show=recorder.show_workers,
        keep_server=keep_server,
    )
    quick = impatient(server.redis, REDIS_TIMEOUT_S)
    asked, seen = Requests(quick, config.name), Queue(quick, config.name)
    elastic = Elastic(config.fleet, fleet.supervisor, seen, asked, drain=stop.ask, note=note)
    fleet.start()
    fleet.on_tick = partial(_each, elastic.tick, judges.tick)
    return fleet


def _open_blobs(stack: ExitStack, config: RunConfig, server: RunServer) -> BlobStore:
    """The payloads' store, and beside it the sweeper of those that nobody names any more."""
    blobs = build_blobs(config.fleet.blobs, server.redis, config.name)
    stack.callback(blobs.close)
    sweeper = OrphanSweeper(blobs, server.redis, config.name, ORPHAN_GRACE_S)
    stack.enter_context(Beat(lambda: sweeper.sweep(time.monotonic()), ORPHAN_GRACE_S / 4, "orphan sweeper"))
    return blobs


def _train(session: Session, controller: Controller, queue: Queue, progress: Progress, stop: StopSign) -> Progress:
    """Updates, up to the last one or to a reason to stop; then rollout and reward workers come to rest."""
    session.with_learner(lambda: session.first_looks(progress))
    session.fleet.run_loops()
    session.recorder.enter("training")
    with stop.heeded():
        with Sweeping(queue, session.config.fleet.supervision.lease_s) as janitor:

            def after(now: Progress) -> None:
                janitor.check()
                session.after_update(now)

            def halt() -> bool:
                return session.halted or stop.urgent

            progress = controller.run(progress, after, halt=halt, drain=lambda: stop.raised)
        session.recorder.enter("finishing")
        controller.end("drained" if stop.raised else "done")
        session.save_last(progress)
        patience_s = LEAST_PATIENCE_S if stop.urgent else controller.patience_s
        session.with_learner(lambda: session.fleet.join_loops(patience_s))
    return progress


def _note(recorder: Recorder, console: Console, text: str) -> None:
    """Tell the operator, and the journal, what happened to a worker; the text begins with its slot."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    slot = text.split(maxsplit=1)[0]
    known = slot.rpartition("-")[0] in ("rollout", "reward", "learner")
    recorder.tell("learner" if "learner" in text else "worker", text, slot=slot if known else "")


def _each(*looks: Callable[[], None]) -> None:
    for look in looks:
        look()


def _restore(session: Session) -> Progress:
    restored = session.fleet.restore(session.checkpoints)
    for complaint in restored.complaints:
        session.console.print(f"checkpoint passed over: {complaint}")
    lines = [json.loads(line) for line in (session.folder / "history.jsonl").read_text().splitlines()]
    if restored.progress is not None:
        if not lines and restored.config != config_digest(session.config):
            raise ConfigError(
                f"{session.checkpoints}: expected checkpoints of this configuration, for {session.folder} is new; "
                "found another's; use another `name` or fleet.checkpoints, or --fresh to move them aside"
            )
        session.console.print(f"going on from the checkpoint of update {restored.progress.update}")
    return resumed(restored.progress, [(line["version"], line["lineage"]) for line in lines])
