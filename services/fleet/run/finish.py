"""The end of a run: what was learned is measured, and left behind with strips, card, summary and report."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import count
from pathlib import Path

from rollout.policies.serving import stock_arguments
from rollout.prompts import load_prompts
from rollout.types import WeightsVersion
from services.config import RunConfig
from services.errors import ConfigError
from services.fleet.failpoints import failpoint
from services.fleet.messages import Progress
from services.fleet.planning.model_folder import model_folder, model_name
from services.fleet.planning.run_folder import recorded_provenance
from services.fleet.run.controller import Controller
from services.fleet.run.figures import add_evaluations, evaluated_temperatures, evaluations, read_evaluations
from services.fleet.run.recorder import compose_run_strips
from services.fleet.run.session import Session
from services.observe.history import read_history
from services.observe.model_card import AdapterCard, render_model_card
from services.observe.report import write_report
from services.observe.summary import Evaluation, When, build_summary, write_summary


def back_to_the_best(session: Session, progress: Progress) -> Progress:
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


def finish(session: Session, controller: Controller, progress: Progress, wall_seconds: float) -> None:
    """Measure what was learned and leave it behind: strips, adapter and card, summary, report."""
    config, folder = session.config, session.folder
    session.console.print("measuring before and after training", highlight=False)
    session.with_learner(lambda: _measure(session, None, "before"))
    versions = count(progress.version + 1)  # one for every attempt: none is published twice

    def measure_average() -> list[Evaluation]:  # published for the rollout workers that help
        published = controller.publish_average(progress, versions)
        failpoint("end.published")
        return _measure(session, published, "after")

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
