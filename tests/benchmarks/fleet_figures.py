"""Fleets that are simulated: what they cost the controller, and what they gain from staleness.

    python -m tests.benchmarks.fleet_figures        (make fleets; a quarter of an hour)

1. The controller's CPU for a group, with few workers and with many.
2. How long the learner waits where the fleet is fast enough on paper (services/fleet/planning/throughput.py), and
   where not.
3. A fleet of 16 GPUs at published latencies: the step of verl's synchronous run of Qwen2.5-Math-7B on 32 cards, whose
   work is divided among the GPUs of each role here; two hundred times faster, so that an update takes seconds.
4. Threads in three processes beside 8 actors of Ray: does a group cost the controller as much there?
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from services.cli.bench_fleet import Figures, print_figures, simulate
from services.cli.run_file import load_run_file
from services.fleet.planning.throughput import Latencies as OnPaper
from services.fleet.planning.throughput import pace
from services.fleet.workers.simulated import Latencies
from tests.services.fleet.planning.test_throughput import PUBLISHED

QUICKSTART = Path(__file__).resolve().parents[2] / "deploy/configs/quickstart.yaml"
CARDS, FASTER = 32, 200.0


def run(rollouts: int, rewards: int, groups: int, *more: str):
    """A run file with so many workers, and groups an update."""
    return load_run_file(
        QUICKSTART,
        [
            f"fleet.rollout.workers={rollouts}",
            f"fleet.reward.workers={rewards}",
            f"learning.groups_per_update={groups}",
            "fleet.supervision.dead_after_s=120",
            *more,
        ],
    )


def models(draw_s: float, score_s: float, update_s: float, kib: int = 4) -> Latencies:
    """Latencies, with payloads of so many KiB a sample."""
    return Latencies(
        draw_s=draw_s,
        score_s=score_s,
        update_s=update_s,
        latents_bytes=kib << 10,
        images_bytes=kib << 10,
        weights_bytes=1 << 20,
    )


def paper(config, latencies: Latencies) -> float:
    """The share of its time that the learner waits, on paper."""
    given = OnPaper(sample=latencies.draw_s, decode=0.0, score=latencies.score_s, update=latencies.update_s)
    return pace(config, given).idle["learner"]


def controller(updates: int) -> list[Figures]:
    return [
        simulate(run(256, 64, 256), models(20.0, 4.0, 10.0), updates),
        simulate(run(800, 200, 800), models(20.0, 4.0, 10.0, kib=1), max(2, updates // 2)),
    ]


def waiting(updates: int, console: Console) -> None:
    table = Table("rollouts", "rewards", "staleness", "groups/s", "learner waits, on paper", "learner waits")
    for rollouts, rewards, staleness in ((18, 6, 1), (12, 4, 1), (12, 4, 2), (12, 4, 0)):
        config, latencies = run(rollouts, rewards, 36, f"fleet.max_staleness={staleness}"), models(4.0, 1.0, 12.0)
        found = simulate(config, latencies, updates)
        on_paper = f"{paper(config, latencies):.1%}"
        rate = f"{found.groups / found.seconds:.2f}"
        table.add_row(str(rollouts), str(rewards), str(staleness), rate, on_paper, f"{found.wait:.1%}")
    console.print(table)


def published(updates: int, console: Console) -> None:
    """7 GPUs draw, 2 score, 7 learn; 28 groups an update."""
    groups, (rollouts, rewards, learners) = 28, (7, 2, 7)
    drawing, scoring, updating, _ = (CARDS * seconds / FASTER for seconds in PUBLISHED[0])
    latencies = models(drawing / groups, scoring / groups, updating / learners)
    table = Table("staleness", "seconds an update, on paper", "seconds an update", "learner waits")
    for staleness in (0, 1, 2):
        config = run(rollouts, rewards, groups, f"fleet.max_staleness={staleness}")
        given = OnPaper(sample=latencies.draw_s, decode=0.0, score=latencies.score_s, update=latencies.update_s)
        found = simulate(config, latencies, updates)
        seconds = FASTER * groups * found.seconds / found.groups
        table.add_row(
            str(staleness), f"{FASTER * pace(config, given).update_s:.0f}", f"{seconds:.0f}", f"{found.wait:.1%}"
        )
    console.print(table)


def actors(updates: int, console: Console) -> None:
    config, latencies = run(6, 2, 32), models(0.3, 0.08, 0.5)
    rows = [simulate(config, latencies, updates, actors=way) for way in (False, True, False, True)]
    print_figures(rows, console)
    threads, ray = (sum(row.controller_ms for row in rows[way::2]) for way in (0, 1))
    console.print(f"a group with Ray actors over one with threads: {ray / threads:.2f}")


PARTS = ("controller", "waiting", "published", "actors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given, console = parser.parse_args(), Console(width=120)
    if "controller" in given.only:
        print_figures(controller(given.updates), console)
    if "waiting" in given.only:
        waiting(given.updates, console)
    if "published" in given.only:
        published(given.updates, console)
    if "actors" in given.only:
        actors(4 * given.updates, console)


if __name__ == "__main__":
    main()
