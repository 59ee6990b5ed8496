"""A training run from its run file to its report.

run folder -> server -> Ray -> workers -> restore -> updates -> before and after -> adapter, summary, report
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from rich.console import Console

from rollout.policies.serving import stock_arguments
from rollout.prompts import load_prompts
from rollout.types import WeightsVersion
from services.config import RunConfig
from services.data.address import leave_address
from services.data.blobs import build_blobs
from services.data.lease import Beat, Sweeping
from services.data.orphans import OrphanSweeper
from services.data.queue import Queue
from services.data.server import EmbeddedServer, connect, impatient
from services.errors import ConfigError, ExitCode, RunMissing, ServerUnavailable
from services.fleet.actors import cluster_nodes, cluster_resources, ray_session
from services.fleet.asked import Requests
from services.fleet.controller import LEAST_PATIENCE_S, Controller
from services.fleet.elastic import Elastic
from services.fleet.figures import add_evaluations, evaluated_temperatures, evaluations, read_evaluations
from services.fleet.fleet import Fleet
from services.fleet.heartbeat import REDIS_TIMEOUT_S
from services.fleet.judges import served_judges
from services.fleet.lineage import resumed
from services.fleet.messages import Progress
from services.fleet.model_folder import model_folder, model_name
from services.fleet.preflight import check_inputs, check_places, check_reach, check_room
from services.fleet.recorder import SCRAPE_TIMEOUT_S, Recorder, compose_run_strips
from services.fleet.run_folder import checkpoints_of, config_digest, owned, recorded_provenance
from services.fleet.session import Session
from services.fleet.stop import StopSign
from services.fleet.watch import BEST_FOLDER, build_watch
from services.observe.history import read_history
from services.observe.log import JsonLines
from services.observe.model_card import AdapterCard, render_model_card
from services.observe.report import write_report
from services.observe.summary import Evaluation, When, build_summary, write_summary

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
        server = None if config.fleet.redis else stack.enter_context(EmbeddedServer())
        url = server.url if server else str(config.fleet.redis)
        if server is not None:  # a server's password that is not the run's own stays out of its folder
            stack.enter_context(leave_address(folder, url))
        redis = connect(url)
        queue = Queue(redis, config.name)
        exporter = connect(config.fleet.redis_users.url_of("exporter", url))
        scraped = Queue(impatient(exporter, SCRAPE_TIMEOUT_S), config.name)
        recorder = stack.enter_context(Recorder(config, folder, queue, scraped, console, lines))
        recorder.watch_ray(stack.enter_context(ray_session()))
        stop.arm()  # Ray takes SIGTERM for itself when it starts
        check_reach(config, cluster_nodes())
        if config.fleet.room_timeout_s == 0.0:
            check_room(config.fleet, cluster_resources())
            check_places(config.fleet, cluster_nodes())
        console.print(f"run folder {folder}, metrics {recorder.metrics_url}", highlight=False)
        note = partial(_note, recorder, console)
        judges = stack.enter_context(served_judges(config, folder, note))
        fleet = Fleet(
            judges.config,
            redis,
            url,
            release=partial(_release, queue),
            note=note,
            show=recorder.show_workers,
            keep_server=partial(_keep_server, server, note),
        )
        quick = impatient(redis, REDIS_TIMEOUT_S)
        asked, seen = Requests(quick, config.name), Queue(quick, config.name)
        elastic = Elastic(config.fleet, fleet.supervisor, seen, asked, drain=stop.ask, note=note)
        fleet.start()
        fleet.on_tick = partial(_each, elastic.tick, judges.tick)
        blobs = build_blobs(config.fleet.blobs, redis, config.name)
        stack.callback(blobs.close)
        sweeper = OrphanSweeper(blobs, redis, config.name, ORPHAN_GRACE_S)
        stack.enter_context(Beat(lambda: sweeper.sweep(time.monotonic()), ORPHAN_GRACE_S / 4, "orphan sweeper"))
        session = Session(config, folder, fleet, recorder, console, checkpoints_of(config, folder), watch=None)

        def rolled_back(update: int) -> None:  # by then the session has its watch
            session.rolled_back(update)

        controller = Controller(
            config,
            fleet,
            queue,
            blobs,
            recorder.take,
            checkpoints=session.checkpoints,
            note=note,
            rolled_back=rolled_back,
        )
        progress = session.with_learner(lambda: controller.begin(_restore(session)))
        session = replace(session, watch=build_watch(config, folder, progress.update))
        progress = _train(session, controller, queue, progress, stop)
        if session.halted:
            session = replace(session, checkpoints=folder / BEST_FOLDER)
            progress = _back_to_the_best(session, progress)
        elif progress.update < config.learning.updates:
            console.print(f"stopped after update {progress.update}; the same command goes on from there")
            write_report(folder, planned_updates=config.learning.updates)
            return ExitCode.DRAINED
        _finish(session, controller, progress, wall_seconds=time.monotonic() - started)
    return ExitCode.DONE


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


def _keep_server(server: EmbeddedServer | None, note: Callable[[str], None]) -> None:
    """Start the run's own server again where it has died: it comes back empty, at its old address."""
    if server is not None and not server.alive:
        server.restart()
        note("the run's own server died, and was started again")


def _each(*looks: Callable[[], None]) -> None:
    for look in looks:
        look()


def _release(queue: Queue, slot: str) -> None:
    """Give back what a dead worker had claimed; where the server is away, its leases run out instead."""
    with suppress(RunMissing, ServerUnavailable):
        queue.release(slot)


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


def _back_to_the_best(session: Session, progress: Progress) -> Progress:
    """The learner at the panel's best look, which are the session's checkpoints now: what a run leaves behind that was
    stopped for hacking its reward.
    """
    found = session.with_learner(lambda: session.fleet.restore(session.checkpoints)).progress
    if found is None:
        raise ConfigError(f"expected a checkpoint in {session.checkpoints}, found none")
    session.console.print(f"stopped after update {progress.update} for reward hacking; keeping update {found.update}")
    return replace(found, version=progress.version, lineage=progress.lineage)


def _measure(session: Session, version: WeightsVersion | None, when: When) -> list[Evaluation]:
    """Evaluate weights, unless an earlier start has done so. The weights before training are measured at the end, too:
    they follow from the run file, and the first update need not wait for them.
    """
    known = read_evaluations(session.folder)
    if session.config.evaluation is None or any(evaluation.when == when for evaluation in known):
        return known
    session.recorder.enter("evaluating")
    part = session.fleet.evaluate(version, evaluated_temperatures(session.config))
    figures = add_evaluations(session.folder, evaluations(session.config, part, when))
    for figure in figures:
        if figure.when == when and figure.sampler == "serving":
            low, high = figure.interval_95
            session.console.print(
                f"{when}: {figure.metric} {figure.value:.3f} [{low:.3f}, {high:.3f}] on {figure.images} held-out images"
            )
    return figures


def _finish(session: Session, controller: Controller, progress: Progress, wall_seconds: float) -> None:
    """Measure what was learned and leave it behind: strips, adapter and card, summary, report."""
    config, folder = session.config, session.folder
    session.console.print("measuring before and after training", highlight=False)
    session.with_learner(lambda: _measure(session, None, "before"))
    versions = count(progress.version + 1)  # one for every attempt: none is published twice

    def measure_average() -> list[Evaluation]:  # published for the rollout workers that help
        return _measure(session, controller.publish_average(progress, versions), "after")

    figures = session.with_learner(measure_average)
    session.recorder.enter("finishing")
    if config.evaluation is not None and progress.update % config.evaluation.strips_every:
        session.with_learner(lambda: session.recorder.show_strips(session.fleet.strips(), progress.update))
    compose_run_strips(config, folder)
    session.with_learner(lambda: session.fleet.save_trained(folder / "adapter"))
    card = model_card(config, folder, progress, figures)
    (folder / "adapter" / "README.md").write_text(card, encoding="utf-8")
    records = read_history(folder / "history.jsonl")
    summary = build_summary(records, figures, wall_seconds=progress.run_seconds, slots=os.cpu_count() or 1)
    watched = session.watched(progress)
    write_summary(folder / "summary.json", {**summary, **watched, "total_seconds": wall_seconds})
    report = write_report(folder, planned_updates=config.learning.updates)
    session.console.print(f"adapter {folder / 'adapter'}\nreport  {report}", highlight=False)


def model_card(config: RunConfig, folder: Path, progress: Progress, figures: list[Evaluation]) -> str:
    """The adapter's README."""
    model = model_folder(config.model)
    index = json.loads((model / "model_index.json").read_text())
    absent = [name for name, value in index.items() if isinstance(value, list) and value[0] is None]
    behaviour = config.sampling.constant_behaviour(config.sampling.serving_temperature)
    required = ("text_encoder_3", "tokenizer_3")  # what diffusers insists on being told is absent
    return render_model_card(
        AdapterCard(
            run=config.name,
            base_model=model_name(config.model),
            pipeline=index["_class_name"],
            absent_components=tuple(name for name in required if name in absent),
            network=index["transformer"][1] if config.model.lora is None else None,
            base_adapter=None if config.model.base_adapter is None else str(config.model.base_adapter),
            arguments=stock_arguments(model, behaviour.num_steps, behaviour.guidance),
            max_sequence_length=config.model.max_sequence_length,
            sampler="annealed",
            behaviour=behaviour,
            rewards={reward.title: reward.weights[-1][1] for reward in config.rewards},
            updates=progress.update,
            images=progress.images_total,
            evaluations=tuple(figures),
            prompt=load_prompts(config.sampling.prompts)[0].text,
            commit=recorded_provenance(folder)["commit"],
        )
    )
