"""A worker's heartbeat: who it is, what it does and what it has done, written into Redis by a thread of its own.

The figures are the worker's, but they outlive it: the last beat stays in the run's hash until the next process of that
slot writes its first. Clocks of two machines are never compared; a beat is new because its number is.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import cast

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from rewards.tally import Tally
from services.data.keys import run_key
from services.data.scripted import source
from services.data.server import impatient, reaching_server
from services.errors import QueueError

REDIS_TIMEOUT_S = 3.0
"""How long a beat, or a look at all beats, waits for the server."""
STOP_TIMEOUT_S = REDIS_TIMEOUT_S + 2.0
HEARTS = "hearts"


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """One heartbeat. Totals are of this incarnation."""

    slot: str
    incarnation: int  # how many processes the slot had before
    number: int  # of the beat; 0 is the first
    pid: int
    host: str
    unix_ms: int  # by the worker's clock
    ready: bool  # built, and able to do what its role does
    phase: str  # what it does now
    work: str  # the oldest piece of work in hand, such as "12/0"; empty: none
    work_s: float  # how long it has had it
    busy_s: float  # seconds with work in hand
    idle_s: float  # seconds without
    groups: int  # pieces of work done
    images: int
    version: int  # of the weights in the module; 0: none
    digest: str  # of what is really in the module
    rewards: dict[str, Tally] = {}  # of a reward worker, by name
    gpu_bytes: int = 0  # that PyTorch holds on its GPUs, cached blocks included; 0 without one


def gpu_bytes() -> int:
    """What PyTorch holds on this process's GPUs, cached blocks included. Never wakes a GPU that was not used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count()))


class Pulse:
    """What a worker says of itself. The worker writes, its heart reads."""

    def __init__(self, slot: str, incarnation: int) -> None:
        self.slot = slot
        self.incarnation = incarnation
        self._lock = threading.Lock()
        self._ready = False
        self._phase = "starting"
        self._hands: dict[str, tuple[str, float]] = {}  # key: the work and since when, oldest first
        self._since = time.monotonic()
        self._busy_s = self._idle_s = 0.0
        self._groups = self._images = 0
        self._version, self._digest = 0, ""
        self._rewards: dict[str, Tally] = {}
        self._number = -1

    def enter(self, phase: str, *, ready: bool = True) -> None:
        """The worker does this now."""
        with self._lock:
            self._phase, self._ready = phase, ready

    def holds(self, version: int, digest: str) -> None:
        """These weights are verified and in the module."""
        with self._lock:
            self._version, self._digest = version, digest

    def tells(self, rewards: Mapping[str, Tally]) -> None:
        """How the rewards' calls went so far."""
        with self._lock:
            self._rewards = dict(rewards)

    @contextmanager
    def working(self, work: str, phase: str, images: int = 0) -> Iterator[None]:
        """A piece of work is in hand for the time of the context; `images` are counted where it ends well."""
        self.take(work, work, phase)
        try:
            yield
        except BaseException:
            self.settle(work)
            raise
        self.settle(work, groups=1, images=images)

    def take(self, key: str, work: str, phase: str) -> None:
        """A piece of work is in hand, perhaps beside others, until it is settled by its key."""
        with self._lock:
            if not self._hands:
                self._turn()
            self._hands[key] = (work, time.monotonic())
            self._phase = phase

    def settle(self, key: str, *, groups: int = 0, images: int = 0) -> None:
        """It is done, with so many groups and images to count, or given up with none."""
        with self._lock:
            if self._hands.pop(key, None) is None:
                return
            if not self._hands:
                self._turn(busy=True)
                self._phase = "idle"
            self._groups += groups
            self._images += images

    def beat(self) -> Beat:
        """The next heartbeat."""
        with self._lock:
            self._number += 1
            now = time.monotonic()
            here = now - self._since
            work, since = next(iter(self._hands.values()), ("", now))
            return Beat(
                slot=self.slot,
                incarnation=self.incarnation,
                number=self._number,
                pid=os.getpid(),
                host=socket.gethostname(),
                unix_ms=time.time_ns() // 1_000_000,
                ready=self._ready,
                phase=self._phase,
                work=work,
                work_s=now - since,
                busy_s=self._busy_s + (here if self._hands else 0.0),
                idle_s=self._idle_s + (0.0 if self._hands else here),
                groups=self._groups,
                images=self._images,
                version=self._version,
                digest=self._digest,
                rewards=self._rewards,
                gpu_bytes=gpu_bytes(),
            )

    def _turn(self, *, busy: bool = False) -> None:
        """From idle to busy, or back."""
        now = time.monotonic()
        self._busy_s += now - self._since if busy else 0.0
        self._idle_s += 0.0 if busy else now - self._since
        self._since = now


class Heart:
    """Beats until it is stopped, or its process ends. A beat that the server does not take is lost, no more."""

    def __init__(self, pulse: Pulse, redis: Redis, run: str, every_s: float) -> None:
        self._pulse = pulse
        self._writer = Writer(impatient(redis, REDIS_TIMEOUT_S), run)
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """One last beat, then none."""
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        while True:
            last = self._stop.is_set()
            self._writer.write([self._pulse])
            if last:
                return
            self._stop.wait(self._every_s)


class Writer:
    """Writes beats to where the supervisor looks."""

    def __init__(self, redis: Redis, run: str) -> None:
        self._script = redis.register_script(source("beat"))
        self._key = run_key(run, HEARTS)

    def write(self, pulses: Sequence[Pulse]) -> None:
        """One beat of each, in one call. The supervisor knows an outage of the server from a death of the worker."""
        beats = [part for pulse in pulses for part in (pulse.slot, msgspec.msgpack.encode(pulse.beat()))]
        with suppress(RedisError):
            self._script(keys=[self._key], args=beats)


class Hearts:
    """The supervisor's view of all heartbeats of a run."""

    def __init__(self, redis: Redis, run: str) -> None:
        self._redis = impatient(redis, REDIS_TIMEOUT_S)
        self._key = run_key(run, HEARTS)

    def read(self) -> dict[str, Beat] | None:
        """The last beat of every slot; None where the server does not answer."""
        try:
            found = cast("dict[bytes, bytes]", self._redis.hgetall(self._key))
        except RedisError:
            return None
        return {slot.decode(): msgspec.msgpack.decode(beat, type=Beat) for slot, beat in found.items()}

    def clear(self) -> None:
        """Forget the beats of an earlier start."""
        with reaching_server(QueueError, "clear the heartbeats"):
            self._redis.delete(self._key)
