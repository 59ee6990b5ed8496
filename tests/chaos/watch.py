"""Looks at a run from outside while a test hurts it: its account at any moment, its updates, its metrics."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException

from redis.exceptions import RedisError

from services.data.queue import Queue, accounting_holds
from services.data.server import connect, impatient
from services.errors import TafsError
from services.fleet.run.recorder import SCRAPE_TIMEOUT_S
from tests.e2e.going import Going

LOOK_EVERY_S = 0.3
ANSWER_S = 2.0
METRICS_S = SCRAPE_TIMEOUT_S + 2.0
"""An endpoint whose server is silent says so only when it has waited for it."""
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")

ABSENT = (OSError, HTTPException, TafsError, RedisError, ValueError, KeyError)
"""What a look ends with at something that is not there just now, or not whole."""


class Watch:
    """What was seen of a run."""

    def __init__(self, going: Going, url: str | None = None) -> None:
        """url: of the run's server, where it is not its own."""
        self._going = going
        self._url = url
        self._queue: tuple[str, Queue] | None = None
        self._samples: list[dict[str, float]] = []  # one for each scrape
        self._updates: dict[float, int] = {}  # when one ended: its number
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.looks = 0
        self.violations: list[str] = []

    @contextmanager
    def looking(self) -> Iterator[Watch]:
        """Looks until the end of the context, which fails where the account did not add up at any moment."""
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join(60.0)
        assert self.violations == []
        assert self.looks > 0, "the account was never seen"

    def now_at(self, going: Going) -> None:
        """The run was started again."""
        self._going = going

    def counted(self, name: str, **labels: str) -> float:
        """The most that a metric showed at one moment, added up over all samples with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        sums = [
            sum(value for key, value in sample.items() if key.split("{")[0] == name and all(w in key for w in wanted))
            for sample in self._samples
        ]
        return max(sums, default=0.0)

    def least(self, name: str) -> float:
        """The least that a metric without further labels showed."""
        return min((v for sample in self._samples for key, v in sample.items() if key.split("{")[0] == name), default=1)

    def next_update_after(self, unix_time: float) -> float | None:
        """Seconds from that moment to the end of the first update behind it; None where none was seen."""
        later = [ended for ended in self._updates if ended > unix_time]
        return min(later) - unix_time if later else None

    def _run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            for look in (self._at_updates, self._at_account, self._at_metrics):
                with suppress(*ABSENT):
                    look()

    def _at_updates(self) -> None:
        for line in (self._going.folder / "history.jsonl").read_text().splitlines():
            record = json.loads(line)
            self._updates[record["unix_time"]] = record["update"]

    def _at_account(self) -> None:
        url = self._url or (self._going.folder / ".server").read_text()
        if self._queue is None or self._queue[0] != url:
            self._queue = url, Queue(impatient(connect(url), ANSWER_S), self._going.folder.name)
        found = self._queue[1].statistics()
        self.looks += 1
        if not accounting_holds(found):
            self.violations.append(f"the account does not add up: {found}")

    def _at_metrics(self) -> None:
        url = json.loads((self._going.folder / "status.json").read_text())["metrics"]
        with urllib.request.urlopen(url, timeout=METRICS_S) as answer:
            lines = answer.read().decode().splitlines()
        found = (SAMPLE.match(line) for line in lines if not line.startswith("#"))
        self._samples.append({f"{m[1]}{{{m[2] or ''}}}": float(m[3]) for m in found if m})
