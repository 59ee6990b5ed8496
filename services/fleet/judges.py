"""The judges that a run serves itself: their actors, and the run file with their addresses in place of their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.config import RunConfig
from services.fleet.actors import Worker, node_address, results
from services.fleet.placement import Needs
from services.judge_config import SERVED

STOP_TIMEOUT_S = 60.0
START_MARGIN_S = 60.0
"""Above a judge's own ready_s: its actor has to be placed and started."""


@contextmanager
def served_judges(config: RunConfig, folder: Path) -> Iterator[RunConfig]:
    """The run file as its workers need it, while the judges of `fleet.judges` answer; all start at once.

    RewardFailed where one does not come up; its log is logs/judge-NAME.log in the run folder.
    """
    judges = config.fleet.judges
    workers = [Worker(f"judge-{judge.name}", Needs(cpus=judge.cpus, gpus=judge.gpus), None) for judge in judges]
    try:
        host = node_address()
        starts = [
            worker.start("judge", judge, host, (folder / "logs" / f"judge-{judge.name}.log").absolute())
            for worker, judge in zip(workers, judges, strict=True)
        ]
        if judges:
            results(starts, max(judge.ready_s for judge in judges) + START_MARGIN_S, "starting the judges")
        urls = results([worker.call("url") for worker in workers], STOP_TIMEOUT_S, "the judges' addresses")
        yield with_addresses(config, {judge.name: url for judge, url in zip(judges, urls, strict=True)})
    finally:
        try:
            results([worker.call("stop") for worker in workers], STOP_TIMEOUT_S, "stopping the judges")
        finally:
            for worker in workers:
                worker.kill()


def with_addresses(config: RunConfig, urls: Mapping[str, str]) -> RunConfig:
    """The run with `judge: {url: served:NAME}` in rewards and panel replaced by these addresses."""

    def options(found: Mapping[str, Any]) -> dict[str, Any]:
        judge = found.get("judge")
        if not isinstance(judge, Mapping) or not str(judge.get("url")).startswith(SERVED):
            return dict(found)
        return {**found, "judge": {**judge, "url": urls[str(judge["url"]).removeprefix(SERVED)]}}

    rewards = tuple(entry.model_copy(update={"options": options(entry.options)}) for entry in config.rewards)
    changes: dict[str, Any] = {"rewards": rewards}
    if config.evaluation is not None and config.evaluation.watch is not None:
        watch = config.evaluation.watch
        panel = tuple(entry.model_copy(update={"options": options(entry.options)}) for entry in watch.panel)
        looks = watch.model_copy(update={"panel": panel})
        changes["evaluation"] = config.evaluation.model_copy(update={"watch": looks})
    return config.model_copy(update=changes)
