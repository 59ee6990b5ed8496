"""A worker's life as a state machine: pure, told the time, deciding nothing but the next state.

    STARTING    ready -> HEALTHY           ended, not ready in time -> DEAD
    HEALTHY     silent -> SUSPECT          ended, hung -> DEAD
    SUSPECT     a heartbeat -> HEALTHY     ended, hung, silent for longer -> DEAD
    DEAD        restarts left -> RESTARTING, else FAILED
    RESTARTING  its pause is over -> STARTING
    DRAINING    its loop ended, or too slow -> STOPPED; entered on request from any of the above

`supervisor.py` looks, calls `advance`, and acts on what it returned. DEAD never becomes HEALTHY without STARTING: a
restarted worker is ready when it holds verified weights. Silence counts only while the supervisor itself could look:
an outage of the server, or a driver that was stopped, kills nobody. A thousand workers are looked at every second:
msgspec's structs are made, and replaced, in a tenth of a dataclass's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from services.config import SupervisionConfig


class State(StrEnum):
    """Where a worker stands."""

    STARTING = "starting"
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    DEAD = "dead"
    RESTARTING = "restarting"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


LIVING = frozenset({State.STARTING, State.HEALTHY, State.SUSPECT, State.DRAINING})
"""A process stands behind them."""
ENDED = frozenset({State.STOPPED, State.FAILED})
"""Nothing follows."""
HOPEFUL = frozenset(State) - ENDED - {State.DRAINING}
"""Those that work or will work again."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the supervisor is; seconds."""

    suspect_s: float  # of silence
    dead_s: float  # of silence
    start_s: float  # from the start of the process to its readiness
    hang_s: float  # in one piece of work
    drain_s: float  # to finish the work in hand
    restarts: int  # of one worker within window_s; what dies with its node is not counted
    window_s: float
    backoff_s: float  # before the first restart; doubles with each within the window
    backoff_max_s: float


def limits_of(watch: SupervisionConfig) -> Limits:
    """The supervision settings as the state machine wants them."""
    return Limits(
        suspect_s=watch.suspect_after_s,
        dead_s=watch.dead_after_s,
        start_s=watch.start_timeout_s,
        hang_s=watch.hang_timeout_s,
        drain_s=watch.drain_timeout_s,
        restarts=watch.restarts,
        window_s=watch.restart_window_s,
        backoff_s=watch.backoff_s,
        backoff_max_s=watch.backoff_max_s,
    )


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at a worker found."""

    now: float  # seconds on a clock that never goes back
    elapsed_s: float = 0.0  # since the last look, as far as heartbeats could be read
    beat: bool = False  # a new heartbeat came
    ready: bool = False  # built, and holding verified weights
    work_s: float = 0.0  # how long it has been in the same piece of work
    ended: str | None = None  # why its process or its loop is over


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's place in the state machine."""

    state: State = State.STARTING
    since: float = 0.0  # when it came into this state
    silence_s: float = 0.0
    incarnation: int = 0
    deaths: tuple[float, ...] = ()  # when it died, within the window, as far as that is held against it
    retry_at: float = 0.0  # RESTARTING: not before
    reason: str = ""  # of the last death or end


def advance(life: Life, seen: Seen, limits: Limits, jitter: float = 0.0) -> Life:
    """The next state. jitter: in [0, 1), spreads restarts; the supervisor draws it."""
    if life.state in ENDED or life.state is State.RESTARTING:
        return life
    if life.state is State.DEAD:
        return _after_death(life, seen.now, limits, jitter)
    life = replace(life, silence_s=0.0 if seen.beat else life.silence_s + seen.elapsed_s)
    cause = _cause_of_death(life, seen, limits)
    if cause is not None:
        return (
            _enter(life, State.STOPPED, seen.now, cause)
            if life.state is State.DRAINING
            else _die(life, seen.now, cause)
        )
    if life.state is State.DRAINING:
        return life
    if life.state is State.STARTING:
        return _enter(life, State.HEALTHY, seen.now) if seen.ready else life
    state = State.SUSPECT if life.silence_s > limits.suspect_s else State.HEALTHY
    return life if state is life.state else _enter(life, state, seen.now)


def restarted(life: Life, now: float) -> Life:
    """A new process was started for a worker that was RESTARTING."""
    assert life.state is State.RESTARTING, life
    return replace(
        life,
        state=State.STARTING,
        since=now,
        silence_s=0.0,
        incarnation=life.incarnation + 1,
    )


def drained(life: Life, now: float) -> Life:
    """The worker was asked to finish what it has in hand; where it works at nothing yet, or no more, that is the
    end.
    """
    if life.state in ENDED or life.state is State.DRAINING:
        return life
    state = State.DRAINING if life.state in (State.HEALTHY, State.SUSPECT) else State.STOPPED
    return _enter(life, state, now, "asked to stop")


def killed(life: Life, now: float, reason: str) -> Life:
    """Somebody else decided that the worker is over, such as a rank of the learner with its peers."""
    return _die(life, now, reason) if life.state in LIVING else life


def forgiven(life: Life, died_at: float) -> Life:
    """The death at that time is not held against the worker any more; one that was given up for it starts again."""
    deaths = tuple(at for at in life.deaths if at != died_at)
    revived = life.state is State.FAILED and deaths != life.deaths
    return replace(life, deaths=deaths, state=State.RESTARTING if revived else life.state)


def why_hopeless(role: str, lives: Sequence[Life], least: int) -> str | None:
    """Why the role can never have `least` healthy workers again; None while it can."""
    hopeful = sum(life.state in HOPEFUL for life in lives)
    failed = [life.reason for life in lives if life.state is State.FAILED]
    if hopeful >= least or not failed:
        return None
    return (
        f"{len(failed)} {role} worker(s) spent their restarts (fleet.supervision.restarts), {hopeful} left, expected "
        f"at least {least}; the last one's end: {failed[-1]}"
    )


def healthy(lives: Sequence[Life]) -> int:
    """How many of them work; a suspect is taken at its word."""
    return sum(life.state in (State.HEALTHY, State.SUSPECT) for life in lives)


def _cause_of_death(life: Life, seen: Seen, limits: Limits) -> str | None:
    if seen.ended is not None:
        return seen.ended
    here = seen.now - life.since
    if life.state is State.STARTING:
        return f"not ready after {here:.0f} s" if here > limits.start_s else None
    if life.state is State.DRAINING and here > limits.drain_s:
        return f"still busy {here:.0f} s after it was asked to stop"
    if life.silence_s > limits.dead_s:
        return f"no heartbeat for {life.silence_s:.0f} s"
    if seen.work_s > limits.hang_s:
        return f"hung: {seen.work_s:.0f} s in one piece of work"
    return None


def _after_death(life: Life, now: float, limits: Limits, jitter: float) -> Life:
    recent = tuple(at for at in life.deaths if at > now - limits.window_s)
    if len(recent) > limits.restarts:
        return _enter(life, State.FAILED, now)
    doublings = max(len(recent) - 1, 0)
    pause = min(limits.backoff_max_s, limits.backoff_s * 2.0**doublings) * (0.75 + 0.5 * jitter)
    return replace(_enter(life, State.RESTARTING, now), deaths=recent, retry_at=now + pause)


def _die(life: Life, now: float, reason: str) -> Life:
    return replace(_enter(life, State.DEAD, now, reason), deaths=(*life.deaths, now))


def _enter(life: Life, state: State, now: float, reason: str | None = None) -> Life:
    return replace(life, state=state, since=now, reason=life.reason if reason is None else reason)
