"""`tafs submit`: a run file as a Ray job, followed to its end, with the exit code that the run ended with."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from services.cli.layered import read_values
from services.errors import ConfigError, ExitCode, ServerUnavailable
from services.fleet.ray_jobs import RUN, JobServer, exit_code_of, ray_token

RUNTIME_ENV = Path("deploy/ray/runtime-env.yaml")
RAY = (sys.executable, "-m", "ray.scripts.scripts")
"""Ray's own command line, of this environment."""


def submit(run_file: Path, overrides: Sequence[str], *, address: str, python: str, wait: bool, show: bool) -> int:
    """Submit, or attach to the run's job that is going on; the exit code of the run, or 0 without waiting.

    The run file is read here for the run's name only: its variables belong to the cluster. Raises ConfigError,
    ServerUnavailable.
    """
    run = run_name(run_file, overrides)
    submission = f"{run}-{time.strftime('%Y%m%d-%H%M%S')}"
    command = job_command(run_file, overrides, run=run, submission=submission, address=address, python=python)
    typer.echo(shlex.join(["ray", *command]))
    if show:
        return ExitCode.DONE
    server = JobServer(address, ray_token())
    if mine := [job for job in server.going_on() if job.run == run]:
        submission = mine[0].id
        typer.echo(f"run {run} is going on as job {submission}")
    elif subprocess.run([*RAY, *command], env=_environment(), check=False).returncode != 0:
        raise ServerUnavailable(f"{address}: expected the job to be taken, found the refusal above")
    typer.echo(f"stop it with: ray job stop --address {address} {submission}")
    if not wait:
        return ExitCode.DONE
    follow = [*RAY, "job", "logs", "--address", address, "--follow", submission]
    subprocess.run(follow, env=_environment(), check=False)  # ends with the job, or when the connection does
    job = server.ended(submission)
    typer.echo(f"job {submission}: {job.status}")
    code = exit_code_of(job)
    if code == ExitCode.DRAINED and server.leaves():
        raise ServerUnavailable(f"{address}: the head went away and drained the run first; submit again, it goes on")
    return code


def job_command(
    run_file: Path, overrides: Sequence[str], *, run: str, submission: str, address: str, python: str
) -> list[str]:
    """The arguments of `ray`."""
    return [
        *("job", "submit", "--no-wait", "--address", address, "--submission-id", submission),
        *("--working-dir", ".", "--runtime-env", str(RUNTIME_ENV), "--metadata-json", json.dumps({RUN: run})),
        *("--", python, "-m", "services", "train", str(run_file), *overrides),
    ]


def run_name(run_file: Path, overrides: Sequence[str]) -> str:
    """The name that the run will have. ConfigError for a file outside of what is uploaded."""
    if run_file.is_absolute() or ".." in run_file.parts:
        raise ConfigError(f"{run_file}: expected a path below this folder, which is what the cluster gets")
    if not RUNTIME_ENV.is_file():
        raise ConfigError(f"expected {RUNTIME_ENV} below this folder, found none; call it from the project's root")
    named = [override.removeprefix("name=") for override in overrides if override.startswith("name=")]
    name = named[-1] if named else read_values(run_file, "run").get("name")
    if not isinstance(name, str):
        raise ConfigError(f"{run_file}: `name` is required and absent")
    return name


def _environment() -> dict[str, str]:
    """Ours, without the cluster that this shell may be connected to, which would take --address' place."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
