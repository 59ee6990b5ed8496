"""A seeded nemesis against one real run: kills, pauses, cuts, outages for some minutes, and what must hold meanwhile.

    python -m tests.chaos.soak --minutes 10 --seed 0        (make soak MINUTES=10)

One deed after another, each at a random moment; the run has to be whole again before the next. Ends with 1 where
anything was violated: a group lost, trained twice or incomplete, an account that does not add up, a death that nobody
caused, a run that does not recover.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from redis.exceptions import RedisError

from services.cli.elastic import ask_workers
from services.data.address import URL_VARIABLE
from services.data.queue import Queue, accounting_holds
from services.data.server import EmbeddedServer, connect, impatient
from services.errors import TafsError
from services.observe.history import read_history
from tests.e2e.going import Going, recoveries

from .proxy import Proxy

ANSWER_S = 2.0
DEAD_AFTER_S = 10.0
OVERRIDES = (
    "learning.updates=100000",
    "learning.checkpoint_every=4",
    "fleet.max_staleness=1",
    "fleet.rollout.workers=2",
    "fleet.rollout.cpus=0.2",
    "fleet.reward.cpus=0.3",
    "evaluation=null",
    "fleet.redis=${TAFS_REDIS_URL}",
    "fleet.supervision.restarts=10000",
    "fleet.supervision.backoff_s=0.1",
    "fleet.supervision.backoff_max_s=1",
    "fleet.supervision.suspect_after_s=3",
    f"fleet.supervision.dead_after_s={DEAD_AFTER_S:g}",
)
DEEDS = {
    "kill rollout-0": 3,
    "kill rollout-1": 3,
    "kill reward-0": 3,
    "kill learner-0": 3,
    "pause rollout-0": 2,
    "pause reward-0": 2,
    "pause learner-0": 2,
    "stop rollout-1": 1,
    "kill server": 2,
    "flush server": 1,
    "pause server": 2,
    "fill server": 1,
    "cut network": 2,
    "hang network": 2,
    "slow network": 1,
    "kill driver": 1,
    "scale 3": 1,
    "scale 2": 1,
}
"""What is done, and how often beside the others. A pause ends long before anybody may be taken for dead; an outage of
the server, or of the way to it, may last longer.
"""
WHOLE_S = 240.0
"""How long the run may take to be whole again."""


class Nemesis:
    """The run, what was done to it, and what was found wrong."""

    def __init__(self, folder: Path, seed: int, server: EmbeddedServer, proxy: Proxy) -> None:
        """proxy: between the run and its server."""
        self.parent = folder
        self.chance = random.Random(seed)
        self.server = server
        self.proxy = proxy
        self.queue = Queue(impatient(connect(server.url), ANSWER_S), "soak")
        self.going = self.start()
        self.logs: list[str] = []
        self.done: Counter[str] = Counter()
        self.caused: Counter[str] = Counter()  # deaths by slot
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)  # from a deed to the next update
        self.struck: dict[str, int] = {}  # slot: its incarnation that was killed
        self.checks = 0
        self.violations: list[str] = []

    def start(self) -> Going:
        """The run, a first time or again."""
        url = f"redis://:{urlsplit(self.server.url).password}@127.0.0.1:{self.proxy.port}"
        os.environ[URL_VARIABLE] = url  # for whoever asks something of the run, as a user's shell has it
        return Going(self.parent, "soak", *OVERRIDES)

    def run(self, minutes: float) -> None:
        """Do one thing after another."""
        self.settle("start")
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until and not self.violations:
            time.sleep(self.chance.expovariate(1 / 3.0))
            deed = self.chance.choices(list(DEEDS), weights=list(DEEDS.values()))[0]
            print(f"{deed} at update {self.going.update()}", flush=True)
            self.do(*deed.split())
            self.settle(deed)
        self.leave()

    def do(self, verb: str, whom: str) -> None:
        """One deed."""
        self.done[f"{verb} {whom}"] += 1
        if verb == "scale":
            ask_workers(self.going.folder, [f"rollout={whom}"])
        elif whom == "driver":
            self.going.process.kill()
            self.logs.append(self.going.end())
            self.going = self.start()
            self.struck.clear()
        elif whom == "server":
            self.to_server(verb)
        elif whom == "network":
            self.to_network(verb)
        elif verb == "pause":
            process = self.going.worker(whom).pid
            signals = (signal.SIGSTOP, signal.SIGCONT)
            for number, wait_s in zip(signals, (self.chance.uniform(0.5, DEAD_AFTER_S / 2), 0.0), strict=True):
                try:
                    os.kill(process, number)
                except ProcessLookupError:
                    self.violations.append(f"{whom} was gone when it was to be paused")
                time.sleep(wait_s)
        else:
            self.struck[whom] = self.going.strike(whom, signal.SIGKILL if verb == "kill" else signal.SIGSTOP)
            self.caused[whom] += 1

    def to_server(self, verb: str) -> None:
        """Kill it, and start it again in a while, without its memory; make it forget, refuse writes, or pause."""
        process, client = psutil.Process(self.server.pid), connect(self.server.url)
        wait_s = self.chance.uniform(1.0, 1.5 * DEAD_AFTER_S)
        if verb == "kill":
            process.kill()
            time.sleep(wait_s)
            self.server.restart()
        elif verb == "flush":
            client.flushall()
        elif verb == "fill":
            client.config_set("maxmemory", "1mb")
            time.sleep(wait_s)
            client.config_set("maxmemory", "0")
        else:
            process.suspend()
            time.sleep(wait_s)
            process.resume()

    def to_network(self, verb: str) -> None:
        """Reset every connection, and those that are tried, for a while; let nothing pass; or let all of it be late."""
        wait_s = self.chance.uniform(1.0, 1.5 * DEAD_AFTER_S)
        if verb == "slow":
            self.proxy.slow(wait_s, delay_s=self.chance.uniform(0.02, 0.2))
        else:
            {"cut": self.proxy.cut, "hang": self.proxy.hang}[verb](wait_s)

    def settle(self, deed: str) -> None:
        """Until everybody works and two more updates are made; the account is looked at all the time."""
        began, update = time.monotonic(), self.going.update()
        first: float | None = None
        while True:
            if self.going.process.poll() is not None:
                self.violations.append(f"after {deed}: the run ended with {self.going.process.returncode}")
                return
            now = self.going.update()
            if first is None and now != update:
                first = time.monotonic() - began
            if now >= update + 2 and all(map(self.works, ("rollout-0", "rollout-1", "reward-0", "learner-0"))):
                self.seconds[deed].append(first or 0.0)
                return
            if time.monotonic() - began > WHOLE_S:
                self.violations.append(f"after {deed}: not whole again within {WHOLE_S:.0f} s")
                return
            self.look_at_account()
            time.sleep(0.25)

    def works(self, slot: str) -> bool:
        """Whether it is healthy, and not the process that was killed and whose death is not yet known."""
        worker = self.going.worker(slot)
        return worker is not None and worker.state == "healthy" and worker.incarnation > self.struck.get(slot, -1)

    def look_at_account(self) -> None:
        """One moment of the queue; where there is one."""
        try:
            found = self.queue.statistics()
        except (TafsError, RedisError):
            return
        self.checks += 1
        if not accounting_holds(found):
            self.violations.append(f"the account does not add up: {found}")

    def leave(self) -> None:
        """Drain the run, and look at what it has done."""
        if self.going.process.poll() is None:
            self.going.process.send_signal(signal.SIGTERM)
        self.logs.append(self.going.end())
        if self.going.process.returncode != 143:
            self.violations.append(f"the drained run ended with {self.going.process.returncode}")
        for role, seconds in recoveries("\n".join(self.logs)):
            self.seconds[f"{role} back"].append(seconds)
        died = Counter(re.findall(r"^(\S+) died: ", "\n".join(self.logs), flags=re.MULTILINE))
        if died != self.caused:
            self.violations.append(f"deaths {dict(died)}, caused {dict(self.caused)}")
        records = read_history(self.going.folder / "history.jsonl")
        consumed = [ordinal for record in records for ordinal in record.report["consumed"]]
        if len(set(consumed)) != len(consumed):
            self.violations.append("a group was trained twice in the surviving lineage")
        if [record.update for record in records] != list(range(1, len(records) + 1)):
            self.violations.append("an update is missing")
        if any(record.report["images"] != 2 * 4 for record in records):
            self.violations.append("an incomplete group was trained")
        lines = (self.going.folder / "history.jsonl").read_text().splitlines()
        versions = [json.loads(line)["version"] for line in lines]
        if len(set(versions)) != len(versions):
            self.violations.append("a version was used twice")
        print(f"{len(records)} updates, {len(consumed)} groups, account looked at {self.checks} times")

    def tell(self) -> None:
        """Seconds to the next update after each deed, and of workers until they worked again."""
        for deed, seconds in self.seconds.items():
            half, most = statistics.median(seconds), max(seconds)
            print(f"{deed:16} {len(seconds):3} times, {half:5.1f} s (median), {most:5.1f} s (most)")
        print(f"{sum(self.done.values())} deeds, {len(self.violations)} violations")
        for violation in self.violations:
            print(f"VIOLATED: {violation}")


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tafs-soak-"))
        server = stack.enter_context(EmbeddedServer())
        proxy = stack.enter_context(Proxy(urlsplit(server.url).path))
        nemesis = Nemesis(Path(folder), given.seed, server, proxy)
        try:
            nemesis.run(given.minutes)
        finally:
            nemesis.going.close()
            nemesis.tell()
        if nemesis.violations:
            print(nemesis.going.log.read_text())
    return 1 if nemesis.violations else 0


if __name__ == "__main__":
    sys.exit(main())
