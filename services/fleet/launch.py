"""A training run from its run file to its report.

run folder -> server -> Ray -> workers -> restore -> updates -> before and after -> adapter, summary, report
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rollout.policies.serving import stock_arguments
from rollout.prompts import load_prompts
from rollout.types import WeightsVersion
from services.config import RunConfig
from services.data.address import leave_address
from services.data.blobs import build_blobs
from services.data.lease import Beat
from services.data.orphans import OrphanSweeper
from services.data.queue import Queue
from services.data.server import EmbeddedServer, connect, impatient
from services.errors import ConfigError, ExitCode
from services.fleet.actors import cluster_nodes, cluster_resources, ray_session
from services.fleet.controller import Controller
from services.fleet.figures import add_evaluations, evaluated_temperatures, evaluations, read_evaluations
from services.fleet.fleet import Fleet
from services.fleet.judges import served_judges
from services.fleet.messages import Progress
from services.fleet.model_folder import model_folder, model_name
from services.fleet.preflight import check_inputs, check_places, check_reach, check_room
from services.fleet.recorder import SCRAPE_TIMEOUT_S, Recorder, compose_run_strips
from services.fleet.run_folder import config_digest, owned, recorded_commit
from services.fleet.stop import StopSign
from services.fleet.watch import BEST_FOLDER, Watch, build_watch
from services.observe.hacking import sentence
from services.observe.history import read_history
from services.observe.log import JsonLines
from services.observe.model_card import AdapterCard, render_model_card
from services.observe.report import write_report
from services.observe.summary import Evaluation, When, build_summary, write_summary

ORPHAN_GRACE_S = 600.0
"""A blob that no group in flight has named for so long was left by a worker that died."""


@dataclass(frozen=True, slots=True)
class Session:
    """The open parts of a run."""

    config: RunConfig
    folder: Path
    fleet: Fleet
    recorder: Recorder
    console: Console
    watch: Watch | None


def train(config: RunConfig, *, fresh: bool, console: Console, lines: JsonLines | None = None) -> ExitCode:
    """Run, or go on with, a training run; `lines` for its output as JSON, with the console writing into it.

    Raises the errors of `services.errors`; resources are released always.
    """
    started = time.monotonic()
    check_inputs(config)
    with ExitStack() as stack:
        folder = stack.enter_context(owned(config, fresh=fresh))
        stop = stack.enter_context(StopSign(console))
        url = config.fleet.redis or stack.enter_context(EmbeddedServer()).url
        if config.fleet.redis is None:  # a server's password that is not the run's own stays out of its folder
            stack.enter_context(leave_address(folder, url))
        redis = connect(url)
        queue = Queue(redis, config.name)
        scraped = Queue(impatient(redis, SCRAPE_TIMEOUT_S), config.name)
        recorder = stack.enter_context(Recorder(config, folder, queue, scraped, console, lines))
        stack.enter_context(ray_session())
        stop.arm()  # Ray takes SIGTERM for itself when it starts
        check_reach(config, cluster_nodes())
        if config.fleet.room_timeout_s == 0.0:
            check_room(config.fleet, cluster_resources())
            check_places(config.fleet, cluster_nodes())
        console.print(f"run folder {folder}, metrics {recorder.metrics_url}", highlight=False)
        fleet = Fleet(stack.enter_context(served_judges(config, folder)), url)
        fleet.start()
        blobs = build_blobs(config.fleet.blobs, redis, config.name)
        stack.callback(blobs.close)
        sweeper = OrphanSweeper(blobs, redis, config.name, ORPHAN_GRACE_S)
        stack.enter_context(Beat(lambda: sweeper.sweep(time.monotonic()), ORPHAN_GRACE_S / 4, "orphan sweeper"))
        controller = Controller(config, fleet, queue, blobs, recorder.take)
        progress = _restore(fleet, folder, console)
        session = Session(config, folder, fleet, recorder, console, build_watch(config, folder, progress.update))
        controller.begin(progress)
        progress = _publish_start(session, progress, controller.epoch)
        fleet.run_loops()
        recorder.enter("training")
        progress = controller.run(
            progress, lambda: stop.raised or _halted(session), lambda now: _after_update(session, now)
        )
        recorder.enter("finishing")
        queue.request_stop("drained" if stop.raised else "done")
        _save(session, progress)
        fleet.join_loops()
        if _halted(session):
            progress = _back_to_the_best(session, progress)
        elif progress.update < config.learning.updates:
            console.print(f"stopped after update {progress.update}; the same command goes on from there")
            write_report(folder, planned_updates=config.learning.updates)
            return ExitCode.DRAINED
        _finish(session, progress, controller.epoch, wall_seconds=time.monotonic() - started)
    return ExitCode.DONE


def _restore(fleet: Fleet, folder: Path, console: Console) -> Progress:
    restored = fleet.restore(folder / "checkpoints")
    for complaint in restored.complaints:
        console.print(f"checkpoint passed over: {complaint}")
    if restored.progress is None:
        return Progress()
    found = restored.progress
    history = folder / "history.jsonl"
    seen = max((json.loads(line)["version"] for line in history.read_text().splitlines()), default=0)
    console.print(f"going on from the checkpoint of update {found.update}")
    newest = max(found.version, seen) + 1  # the crashed start may have published one that no history tells of
    return replace(found, version=newest, lineage=found.lineage + 1)


def _publish_start(session: Session, progress: Progress, epoch: int) -> Progress:
    """The weights that this start draws its first groups with; the strip of the very first ones."""
    named = session.fleet.publish(progress.version + 1, progress.lineage, epoch, average=False)
    if session.config.evaluation is not None and progress.update == 0:
        session.recorder.show_strips(session.fleet.strips(), 0)
    _look(session, progress)
    return replace(progress, version=named.version)


def _save(session: Session, progress: Progress) -> None:
    started = time.monotonic()
    session.fleet.save(session.folder / "checkpoints", progress, config_digest(session.config))
    session.recorder.checkpointed(time.monotonic() - started)


def _after_update(session: Session, progress: Progress) -> None:
    """Checkpoints, strips and looks of the panel when they are due."""
    config = session.config
    _look(session, progress)
    if progress.update % config.learning.checkpoint_every == 0:
        _save(session, progress)
    if config.evaluation is not None and progress.update % config.evaluation.strips_every == 0:
        session.recorder.show_strips(session.fleet.strips(), progress.update)


def _look(session: Session, progress: Progress) -> None:
    """Let the panel look when it is due; keep the weights of its best look, and tell of what falls."""
    watch = session.watch
    if watch is None or not watch.due(progress.update):
        return
    look = watch.look(session.fleet, progress.update)
    verdict = watch.verdict
    assert verdict is not None
    session.recorder.looked(look, verdict)
    if verdict.best_update == progress.update:
        session.fleet.save(session.folder / BEST_FOLDER, progress, config_digest(session.config))
    for fall in verdict.falls:
        if fall.reward in verdict.hacked:
            session.console.print(f"reward hacking: {sentence(fall)}", highlight=False)
            session.recorder.tell("hacking", sentence(fall))


def _watched(session: Session, progress: Progress) -> dict[str, Any]:
    """What the held-out panel says at the end, for the summary; nothing without one."""
    verdict = None if session.watch is None else session.watch.verdict
    return {} if verdict is None else {"watch": {**asdict(verdict), "kept_update": progress.update}}


def _halted(session: Session) -> bool:
    return session.watch is not None and session.watch.halts


def _back_to_the_best(session: Session, progress: Progress) -> Progress:
    """The learner at the panel's best look: what a run leaves behind that was stopped for hacking its reward."""
    found = session.fleet.restore(session.folder / BEST_FOLDER).progress
    if found is None:
        raise ConfigError(f"expected a checkpoint in {session.folder / BEST_FOLDER}, found none")
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


def _finish(session: Session, progress: Progress, epoch: int, wall_seconds: float) -> None:
    """Measure what was learned and leave it behind: strips, adapter and card, summary, report."""
    config, folder = session.config, session.folder
    session.console.print("measuring before and after training", highlight=False)
    average = session.fleet.publish(progress.version + 1, progress.lineage, epoch, average=True)
    _measure(session, None, "before")
    figures = _measure(session, average, "after")
    session.recorder.enter("finishing")
    if config.evaluation is not None and progress.update % config.evaluation.strips_every:
        session.recorder.show_strips(session.fleet.strips(), progress.update)
    compose_run_strips(config, folder)
    session.fleet.save_trained(folder / "adapter")
    card = model_card(config, folder, progress, figures)
    (folder / "adapter" / "README.md").write_text(card, encoding="utf-8")
    records = read_history(folder / "history.jsonl")
    summary = build_summary(records, figures, wall_seconds=progress.run_seconds, slots=os.cpu_count() or 1)
    write_summary(folder / "summary.json", {**summary, **_watched(session, progress), "total_seconds": wall_seconds})
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
            commit=recorded_commit(folder),
        )
    )
