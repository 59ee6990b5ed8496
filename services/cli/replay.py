"""`tafs replay`: a run's updates done again by its learner alone, and whether they end as they did."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from services.errors import ExitCode
from services.fleet.run.replay import Replay


def replay_run(folder: Path, first: int | None, last: int | None, console: Console) -> ExitCode:
    """Replay and tell update by update. BUG where it ends differently and the run's learner had one rank, whose sums
    have one order. ConfigError where there is nothing to replay.
    """
    replay = Replay(folder, first, last)
    begins = f"the checkpoint of update {replay.at}" if replay.at else "the start"
    say(console, f"from {begins}, without Ray and without a server")
    ranks, equal = 1, True
    for done in replay.updates():
        report, ranks = done.report, done.ranks
        equal = equal and not done.differs
        told = f"began with other tensors than the run: {', '.join(done.differs)}" if done.differs else "began equal"
        say(
            console,
            f"update {report.update}: groups {list(report.consumed)}, loss {report.loss:.6g}, "
            f"gradient norm {report.grad_norm:.6g}, {told}",
        )
    distances = replay.distances()
    if distances is None:
        say(console, f"the run has no checkpoint of update {replay.at} to compare with")
    else:
        equal = equal and not any(distances.values())
        apart = ", ".join(f"{kind} {'equal' if far == 0.0 else f'{far:.3g} apart'}" for kind, far in distances.items())
        say(console, f"beside the run's checkpoint of update {replay.at}: {apart}")
    if not equal and ranks > 1:
        say(console, f"the run's learner had {ranks} ranks, whose sums round in another order than one rank's")
    return ExitCode.DONE if equal or ranks > 1 else ExitCode.BUG


def say(console: Console, text: str) -> None:
    """One line, as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
