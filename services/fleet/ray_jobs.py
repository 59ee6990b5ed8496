"""Ray's job server over HTTP: which jobs there are, and how one ended. No Ray is imported.

`ray job submit` ends with 1 whatever the entrypoint ended with; the server knows the number.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from services.errors import ConfigError, ExitCode, ServerUnavailable

RUN = "tafs_run"
"""Key in a job's metadata that holds the run's name."""
GOING_ON = ("PENDING", "RUNNING")
POLL_S = 1.0
ANSWER_TIMEOUT_S = 30.0
LEAVING_S = 20.0
"""From the end of a head's drain to its dashboard's; a job that somebody stopped is known for one this much later."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the server tells of it."""

    id: str
    run: str | None
    status: str  # PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED
    exit_code: int | None  # of the entrypoint, where it ended by itself
    message: str

    @property
    def going_on(self) -> bool:
        """Whether it has not ended."""
        return self.status in GOING_ON


def job_of(told: Mapping[str, Any]) -> Job:
    """From the server's JSON."""
    return Job(
        id=str(told["submission_id"] or ""),
        run=(told.get("metadata") or {}).get(RUN),
        status=str(told["status"]),
        exit_code=told.get("driver_exit_code"),
        message=str(told.get("message") or ""),
    )


def exit_code_of(job: Job) -> int:
    """What the job's entrypoint ended with. A stopped job drained, or was killed and goes on all the same; one that
    ended without a code was lost with its node or could not be started.
    """
    if job.status == "STOPPED":
        return ExitCode.DRAINED
    return ExitCode.TRY_AGAIN if job.exit_code is None else job.exit_code


class JobServer:
    """The job server at http(s)://host:port."""

    def __init__(self, address: str, token: str | None) -> None:
        if urlsplit(address).scheme not in ("http", "https"):
            raise ConfigError(f"--address: expected http://HOST:8265, found {address!r}")
        self._address = address.rstrip("/")
        self._token = token

    def going_on(self) -> list[Job]:
        """The submitted jobs that have not ended."""
        jobs = [job_of(told) for told in self._ask("/api/jobs/") if told.get("submission_id")]
        return [job for job in jobs if job.going_on]

    def stop(self, submission_id: str) -> None:
        """Ask a job to end (SIGTERM)."""
        self._ask(f"/api/jobs/{quote(submission_id)}/stop", method="POST")

    def job(self, submission_id: str) -> Job:
        """One job as it is now."""
        return job_of(self._ask(f"/api/jobs/{quote(submission_id)}"))

    def ended(self, submission_id: str) -> Job:
        """The job once it has ended; its entrypoint's own deadlines bound the wait."""
        while (job := self.job(submission_id)).going_on:
            time.sleep(POLL_S)
        return job

    def leaves(self, within_s: float = LEAVING_S, clock: Callable[[], float] = time.monotonic) -> bool:
        """Whether the server goes away within that time: a head that is moved drains its jobs first."""
        deadline = clock() + within_s
        while clock() < deadline:
            try:
                self.going_on()
            except ServerUnavailable:
                return True
            time.sleep(POLL_S)
        return False

    def _ask(self, path: str, method: str = "GET") -> Any:  # noqa: ANN401 - JSON
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        request = Request(self._address + path, headers=headers, method=method)
        try:
            with urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:
                return json.load(answer)
        except HTTPError as error:
            if error.code in (401, 403):
                raise ConfigError(
                    f"{self._address}: expected a token that the cluster knows, found {error.code} {error.reason}; set "
                    "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
                ) from error
            raise ServerUnavailable(f"{self._address}{path}: {error}") from error
        except (OSError, HTTPException, json.JSONDecodeError) as error:  # refused, silent, or gone within an answer
            raise ServerUnavailable(f"{self._address}: expected Ray's job server, found: {error}") from error


def ray_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """The token as Ray's own clients find it, or None where authentication is not asked for. Raises ConfigError."""
    if environment.get("RAY_AUTH_MODE", "").lower() != "token":
        return None
    if given := environment.get("RAY_AUTH_TOKEN"):
        return given.strip()
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.is_file():
        raise ConfigError(f"RAY_AUTH_MODE is token: expected one at {path}, found none; set RAY_AUTH_TOKEN_PATH")
    return path.read_text(encoding="utf-8").strip()
