"""The judges that a run serves itself: their actors, and the run file with their addresses in place of their names.

An actor starts its server again where that ends by itself. An actor that dies, or has given its server up, is replaced
here, at the same address, because rewards were told it when they were built.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from services.config import RunConfig, SupervisionConfig
from services.errors import RewardFailed
from services.fleet.planning.placement import Needs
from services.fleet.supervision.actors import Worker, failure, finished, node_address, results
from services.fleet.supervision.lifecycle import Life, Limits, Seen, State, advance, limits_of, restarted
from services.judge_config import SERVED, JudgeConfig

STOP_TIMEOUT_S = 60.0
START_MARGIN_S = 60.0
"""Above a judge's own ready_s: its actor has to be placed and started."""
LOOK_S = 2.0
"""Between two looks at the judges."""


@dataclass(slots=True)
class _Served:
    """One judge."""

    judge: JudgeConfig
    worker: Worker
    call: Any  # a reference: to its start, then to the last question whether its server lives
    limits: Limits
    life: Life = field(default_factory=lambda: Life(since=time.monotonic()))
    port: int = 0

    @property
    def slot(self) -> str:
        return f"judge-{self.judge.name}"


class Judges:
    """The judges of a run, which answer at their addresses until `stop`."""

    def __init__(self, config: RunConfig, folder: Path, note: Callable[[str], None]) -> None:
        """Start them, all at once, and wait until they answer. note: tells the operator.

        RewardFailed where one does not come up; its log is logs/judge-NAME.log in the run folder.
        """
        self._folder = folder
        self._note = note
        self._chance = random.Random()
        self._looked = time.monotonic()
        self._served: list[_Served] = []
        try:
            self._host = node_address()
            for judge in config.fleet.judges:
                worker, call = self._start(judge, 0)
                self._served.append(_Served(judge, worker, call, _limits(judge, config.fleet.supervision)))
            if self._served:
                patience_s = max(one.judge.ready_s for one in self._served) + START_MARGIN_S
                results([one.call for one in self._served], patience_s, "starting the judges")
            addresses = [one.worker.call("url") for one in self._served]
            urls = results(addresses, STOP_TIMEOUT_S, "the judges' addresses")
        except BaseException:
            self.stop()
            raise
        now = time.monotonic()
        for one, url in zip(self._served, urls, strict=True):
            one.port = urlsplit(url).port or 0
            one.life = advance(one.life, Seen(now=now, ready=True), one.limits)
            one.call = one.worker.call("check")
        self.config = with_addresses(config, {one.judge.name: url for one, url in zip(self._served, urls, strict=True)})
        """The run file as its workers need it."""

    def tick(self) -> None:
        """Look after them, now and then. RewardFailed where one has spent its restarts."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        for one in self._served:
            self._look(one, now)

    def stop(self) -> None:
        """End the servers and their actors."""
        alive = [one.worker for one in self._served if one.worker.death() is None]
        try:
            results([worker.call("stop") for worker in alive], STOP_TIMEOUT_S, "stopping the judges")
        finally:
            for one in self._served:
                one.worker.kill()

    def _look(self, one: _Served, now: float) -> None:
        if one.life.state is State.RESTARTING:
            if now >= one.life.retry_at:
                one.worker, one.call = self._start(one.judge, one.port)
                one.life = restarted(one.life, now)
            return
        starting, ended = one.life.state is State.STARTING, one.worker.death()
        answered = bool(finished([one.call]))
        if answered and ended is None:
            error = failure(one.call)
            ended = None if error is None else str(error)
            one.call = one.worker.call("check")
        seen = Seen(now=now, ready=answered and ended is None, ended=ended)
        one.life = advance(one.life, seen, one.limits)
        if one.life.state is State.DEAD:
            self._note(f"{one.slot} died: {one.life.reason}")
            one.worker.kill()
            one.life = advance(one.life, seen, one.limits, self._chance.random())
        elif starting and one.life.state is State.HEALTHY:
            self._note(f"{one.slot} is back")
        if one.life.state is State.FAILED:
            raise RewardFailed(
                f"{one.slot}: restarts spent (fleet.supervision.restarts); its log is {self._log(one.judge)}; the last "
                f"end: {one.life.reason}"
            )

    def _start(self, judge: JudgeConfig, port: int) -> tuple[Worker, Any]:
        worker = Worker(f"judge-{judge.name}", Needs(cpus=judge.cpus, gpus=judge.gpus), None)
        return worker, worker.start("judge", judge, self._host, port, self._log(judge))

    def _log(self, judge: JudgeConfig) -> Path:
        return (self._folder / "logs" / f"judge-{judge.name}.log").absolute()


@contextmanager
def served_judges(config: RunConfig, folder: Path, note: Callable[[str], None]) -> Iterator[Judges]:
    """The run's judges, for the time of the context."""
    judges = Judges(config, folder, note)
    try:
        yield judges
    finally:
        judges.stop()


def _limits(judge: JudgeConfig, watch: SupervisionConfig) -> Limits:
    """Of a worker without a heart: it is told dead by Ray, or by itself."""
    return replace(limits_of(watch), start_s=judge.ready_s + START_MARGIN_S)


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
