"""`make chaos` in as many pieces as one likes: what has passed at a commit is kept in a file and not run again there.

    TAFS_CHAOS_SEEDS=5                  how many seeds every fault is tried with
    TAFS_CHAOS_RESULTS=build/chaos.jsonl    a line for every test that was run; without it nothing is kept or left out
    TAFS_CHAOS_MINUTES=20               no test begins later than that; the next call goes on there

The last lines are a table for BENCHMARKS.md, of all that the file has of this commit.
"""

import json
import os
import re
import statistics
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT
from tests.e2e.going import killed_run

from .runs import RUN, faulty

SEEDS = int(os.environ.get("TAFS_CHAOS_SEEDS", "5"))
MINUTES = float(os.environ.get("TAFS_CHAOS_MINUTES", "inf"))
RESULTS = os.environ.get("TAFS_CHAOS_RESULTS")


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(SEEDS))


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """The folder of an undisturbed run."""
    return undisturbed("whole", tmp_path_factory, *RUN)


@pytest.fixture(scope="session")
def sound(tmp_path_factory) -> Path:
    """The folder of an undisturbed run whose reward might fail, and does not."""
    return undisturbed("sound", tmp_path_factory, *RUN, *faulty("none", Path("nowhere")))


def undisturbed(name: str, tmp_path_factory, *overrides: str) -> Path:
    """A run's folder; of this commit it is kept beside the results."""
    here = commit()
    kept = bool(RESULTS) and not here.endswith("+") and "PYTEST_XDIST_WORKER" not in os.environ
    parent = Path(RESULTS).resolve().parent / f"undisturbed-{here}" if kept else tmp_path_factory.mktemp("undisturbed")
    parent.mkdir(parents=True, exist_ok=True)
    if not (parent / name / "summary.json").exists():  # one of the last things that a run writes
        going = killed_run(parent, name, {}, *overrides)
        assert going.process.returncode == 0, going.log.read_text()
    return parent / name


@pytest.fixture
def recovered(request):
    """recovered(what, seconds, figure_s): prints and keeps what a recovery took; four times the figure is a failure."""

    def tell(what: str, seconds: float | None, figure_s: float) -> None:
        assert seconds is not None, f"{what}: nothing followed"
        print(f"recovery: {what} {seconds:.1f} s", flush=True)
        request.node.user_properties.append(("recovery", [what, seconds]))
        assert seconds < 4 * figure_s, f"{what}: {seconds:.1f} s, expected below four times {figure_s:g} s"

    return tell


def pytest_configure(config):
    if RESULTS and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(Path(RESULTS)), "chaos results")


def pytest_collection_modifyitems(config, items):
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    passed = {(line["fault"], line["seed"]) for line in read(RESULTS) if line["outcome"] == "passed"}
    done = [item for item in ours if named(item) in passed]
    items[:] = [item for item in items if item not in done]
    if len(ours) == len(items) + len(done):  # nothing but our tests: every fault with one seed, then with the next
        items.sort(key=lambda item: named(item)[1])
    config.hook.pytest_deselected(items=done)


def pytest_runtest_setup(item):
    if time.monotonic() - BEGAN > 60 * MINUTES:
        pytest.skip(f"begins later than after {MINUTES:g} minutes (TAFS_CHAOS_MINUTES)")


BEGAN = time.monotonic()


def named(item) -> tuple[str, int]:
    """The fault of a test, or of its report, and the seed."""
    found = re.search(r"::test_(\w+)\[(\d+)\]$", item.nodeid)
    assert found is not None, f"expected a test with a seed, found {item.nodeid}"
    return found[1].replace("_", " "), int(found[2])


def commit() -> str:
    """What is tested; with a plus where files differ from it, which is never taken for tested."""
    git = ("git", "-C", str(ROOT))
    head = subprocess.run([*git, "rev-parse", "--short=9", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if changed.stdout.strip() or head.returncode else "")


def read(results: str | None) -> list[dict]:
    """What the file has of this commit as it is."""
    if not results or not Path(results).exists():
        return []
    here = commit()
    if here.endswith("+"):
        return []
    lines = (json.loads(line) for line in Path(results).read_text().splitlines())
    return [line for line in lines if line["commit"] == here]


class Results:
    """Keeps what became of every test, and prints the table."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._commit = commit()
        self._new: list[dict] = []

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed or (report.passed and report.when == "call"):
            fault, seed = named(report)
            line = {
                "commit": self._commit,
                "fault": fault,
                "seed": seed,
                "outcome": report.outcome,
                "seconds": round(report.duration, 1),
                "load": round(os.getloadavg()[0], 1),
                "recoveries": [value for name, value in report.user_properties if name == "recovery"],
                **({"why": report.longreprtext} if report.failed else {}),
            }
            self._new.append(line)
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def pytest_sessionfinish(self, session, exitstatus) -> None:
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and read(str(self._path)):
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter) -> None:
        lines = read(str(self._path)) or self._new
        terminalreporter.section(f"chaos at {self._commit}")
        for line in table(lines):
            terminalreporter.write_line(line)


def table(lines: list[dict]):
    """Markdown: every fault with the seeds that passed, and what the recoveries took."""
    by_fault = defaultdict(list)
    for line in lines:
        by_fault[line["fault"]].append(line)
    yield "| fault | passed with seeds | a run | back after: median, most |"
    yield "|---|---|---|---|"
    for fault, runs in by_fault.items():
        passed = sorted({run["seed"] for run in runs if run["outcome"] == "passed"})
        failed = [run["seed"] for run in runs if run["outcome"] == "failed"]
        seeds = ", ".join(map(str, passed)) + (f" FAILED: {' '.join(map(str, failed))}" if failed else "")
        took = statistics.median(run["seconds"] for run in runs)
        found = defaultdict(list)
        for what, seconds in (each for run in runs for each in run["recoveries"]):
            found[what].append(seconds)
        back = "; ".join(f"{what} {statistics.median(s):.1f} s, {max(s):.1f} s" for what, s in found.items())
        yield f"| {fault} | {seeds} | {took:.0f} s | {back} |"
    loads = [run["load"] for run in lines]
    if loads:
        passed = {(run["fault"], run["seed"]) for run in lines if run["outcome"] == "passed"}
        tried = {(run["fault"], run["seed"]) for run in lines}
        load = f"load {statistics.median(loads):.0f} (median), {max(loads):.0f} (most)"
        yield f"{len(passed)} of {len(tried)} passed; {load}"
