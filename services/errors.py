"""Our exceptions and the exit codes of a run.

    TafsError                   70  the system failed in a way that we did not foresee
    ├── ConfigError             64  the run file or a flag is wrong (a ValueError, too)
    ├── QueueError              70  an entry or a call that does not fit the queue
    │   ├── RunMissing          75  the server holds no such run, or remembers less of it
    │   └── Superseded              another controller has taken the run over
    ├── BlobError               70  a payload could not be stored or read
    │   ├── BlobMissing             it is not in the store
    │   └── BlobCorrupt             it is not what was stored
    ├── WeightsError            70  weights could not be published or fetched
    │   ├── WeightsMissing          the version is not, or no longer, in the store
    │   └── WeightsCorrupt          bytes or tensors do not have the digest they were published with
    ├── CheckpointFailed        75  where checkpoints lie has no room, or does not answer
    ├── WorkerFailed            70  a worker failed more often than its budget allows
    │   └── LearnerLost             a rank of the learner died; caught where it can be replaced
    ├── RewardFailed            75  a reward could not give scores
    ├── ServerUnavailable       75  the Redis server did not start, or does not answer
    │   └── ServerFull              it has no room; what is in flight makes some
    └── StalledError            75  nothing moved for longer than the run allows

Messages say what was expected, what was found and where to change it. `learner.guard.RatioGuardError` stands
outside: the learner imports nothing of ours but the rollout room.
"""

# Named by what happened, as in the drawing; a suffix on the leaves would say nothing more.
# ruff: noqa: N818

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """How a run's process ends, for shells, supervisors and Kubernetes' podFailurePolicy."""

    DONE = 0
    BAD_CONFIG = 64
    """The user has to change something: trying again ends the same way."""
    BUG = 70
    """An error that we did not foresee."""
    TRY_AGAIN = 75
    """Stalled, or lost the cluster or its server: the same command goes on from the last checkpoint."""
    DRAINED = 143
    """Stopped on request (SIGTERM) after a checkpoint."""


class TafsError(Exception):
    """Every error that the system raises on purpose; `exit_code` is what its process ends with."""

    exit_code: ClassVar[ExitCode] = ExitCode.BUG


class ConfigError(TafsError, ValueError):
    """The run file or a flag is wrong."""

    exit_code = ExitCode.BAD_CONFIG


class QueueError(TafsError):
    """An entry or a call that does not fit the queue: wrong schema, wrong place, a run without a ledger."""


class RunMissing(QueueError):
    """The server holds no such run, for it has not begun there or the server lost its memory; or it remembers less of
    it than the caller. A reconcile mends it.
    """

    exit_code = ExitCode.TRY_AGAIN


class Superseded(QueueError):
    """Another controller has taken the run over; this one may change nothing any more, and should end."""


class BlobError(TafsError):
    """A payload could not be stored or read."""


class BlobMissing(BlobError):
    """A payload is not in its store: deleted with its update, or dropped by a restart."""


class BlobCorrupt(BlobError):
    """A payload is not the bytes that were stored, or cannot be decoded."""


class WeightsError(TafsError):
    """Weights could not be published or fetched."""


class WeightsMissing(WeightsError):
    """A weights version is not, or no longer, in the store."""


class WeightsCorrupt(WeightsError):
    """A weights version does not have the digest that it was published with."""


class CheckpointFailed(TafsError):
    """A checkpoint could not be written or read: its place has no room, or does not answer. The one before is there."""

    exit_code = ExitCode.TRY_AGAIN


class WorkerFailed(TafsError):
    """A worker failed more often than its restart budget allows."""


class LearnerLost(WorkerFailed):
    """A rank of the learner died or hung, and its peers were ended with it; whoever called it can have it replaced."""


class RewardFailed(TafsError):
    """A reward, or the server behind it, could not give scores."""

    exit_code = ExitCode.TRY_AGAIN


class ServerUnavailable(TafsError):
    """The Redis server did not start, or does not answer."""

    exit_code = ExitCode.TRY_AGAIN


class ServerFull(ServerUnavailable):
    """The Redis server has reached its maxmemory: what adds nothing still works, and makes room for the rest."""


class StalledError(TafsError):
    """Nothing moved for longer than the run allows."""

    exit_code = ExitCode.TRY_AGAIN
