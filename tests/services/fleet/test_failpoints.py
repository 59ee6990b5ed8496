"""Failpoints: the place that is named ends the process, once; every other place, and every other process, goes on."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.errors import ConfigError
from services.fleet.failpoints import PLACES, VARIABLE, Failpoints

ROOT = Path(__file__).resolve().parents[3]
PASSES = """
from services.fleet.failpoints import failpoint
for _ in range(3):
    failpoint('{place}')
    print('passed', flush=True)
"""


def passing(place: str, value: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PASSES.format(place=place)],
        cwd=ROOT,
        env={**os.environ, VARIABLE: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.integration
def test_a_process_ends_at_its_place_and_the_next_one_passes_it(tmp_path) -> None:
    value = f"{tmp_path}=rollout.drawn:2=kill"
    other = passing("rollout.claimed", value)
    assert (other.returncode, other.stdout.count("passed")) == (0, 3)
    first = passing("rollout.drawn", value)
    assert (first.returncode, first.stdout.count("passed")) == (-signal.SIGKILL, 1)
    assert [mark.name for mark in tmp_path.iterdir()] == ["rollout.drawn"]
    again = passing("rollout.drawn", value)
    assert (again.returncode, again.stdout.count("passed")) == (0, 3)


@pytest.mark.parametrize(
    "value", ["/tmp", "/tmp=", "/tmp=nowhere:1=kill", "/tmp=rollout.drawn=kill", "/tmp=rollout.drawn:1=no"]
)
def test_a_failpoint_that_is_none_is_refused_with_the_places_that_are(value) -> None:
    with pytest.raises(ConfigError, match=r"expected FOLDER=PLACE:NUMBER=kill\|stop"):
        Failpoints.parse(value)


def test_every_place_is_passed_by_exactly_one_line_of_the_code() -> None:
    sources = [path.read_text() for room in ("learner", "services") for path in (ROOT / room).rglob("*.py")]
    call = re.compile(r"(?:failpoint|reached)\(\"([\w.]+)\"\)")
    passed = [name for text in sources for name in call.findall(text)]
    assert sorted(passed) == sorted(PLACES)
