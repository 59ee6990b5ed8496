"""One HTTP call to a judge or a reward server: a deadline, retries with backoff, a limit on the answer, a breaker.

RewardError
`-- ServiceError           the service did not give an answer
    |-- BusyError          not now: unreachable, too slow, 429 or 5xx; worth another try
    `-- RefusedError       not this: another 4xx; the same question will be refused again
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from rewards.breaker import Breaker, BreakerOpenError
from rewards.reward import RewardError

T = TypeVar("T")

MAX_ANSWER_BYTES = 16 * 2**20
MAX_RETRY_AFTER_S = 60.0


class ServiceError(RewardError):
    """A service did not give an answer."""


class BusyError(ServiceError):
    """It cannot answer now; `retry_after_s` is its own estimate, None if it gave none."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RefusedError(ServiceError):
    """It will not answer this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent."""

    method: str
    path: str  # relative to the client's base URL
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStatistics:
    """What has happened since the caller was made."""

    answered: int  # calls that got an answer
    retries: int  # tries after the first one
    failed: int  # calls that got none after all their tries, or that the breaker refused
    breaker_open: bool  # whether calls are refused just now


class _Counts:
    """Safe to move on from several threads."""

    def __init__(self) -> None:
        self.answered = 0
        self.retries = 0
        self.failed = 0
        self._lock = threading.Lock()

    def add(self, *, answered: int = 0, retries: int = 0, failed: int = 0) -> None:
        with self._lock:
            self.answered += answered
            self.retries += retries
            self.failed += failed


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCaller:
    """Asks one server; safe to use from several threads.

    A try ends after `timeout_s` seconds, however slowly bytes trickle in. After `attempts` tries, with pauses of 0.5 s,
    1 s, 2 s, ... up to 30 s, or what the server asks for, the call has failed.
    """

    client: httpx.Client
    service: str  # named in errors
    timeout_s: float
    attempts: int
    breaker: Breaker
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _counts: _Counts = field(default_factory=_Counts)

    def __call__(self, request: Request, read: Callable[[bytes], T]) -> T:
        """What `read` makes of the answer.

        Raises ServiceError if there is none, BreakerOpenError if the server is not asked, and the RewardError with
        which `read` refuses the answer: that, too, is a failed call, but no reason to ask the same again.
        """
        try:
            self.breaker.enter(self.service)
        except BreakerOpenError:
            self._counts.add(failed=1)
            raise
        try:
            answer = read(self._retrying()(self._attempt, request))
        except RefusedError:  # it is there, and it answers: no reason to stop asking
            self._counts.add(failed=1)
            self.breaker.succeeded()
            raise
        except RewardError:
            self._counts.add(failed=1)
            self.breaker.failed()
            raise
        self.breaker.succeeded()
        self._counts.add(answered=1)
        return answer

    def close(self) -> None:
        """Close the connections; nothing can be asked any more."""
        self.client.close()

    def statistics(self) -> CallStatistics:
        """The figures of this moment."""
        counts = self._counts
        return CallStatistics(
            answered=counts.answered, retries=counts.retries, failed=counts.failed, breaker_open=self.breaker.open
        )

    def _retrying(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type(BusyError),
            stop=stop_after_attempt(self.attempts),
            wait=_pause,
            sleep=self.sleep,
            before_sleep=self._count_retry,
            reraise=True,
        )

    def _count_retry(self, _: RetryCallState) -> None:
        self._counts.add(retries=1)

    def _attempt(self, request: Request) -> bytes:
        deadline = self.clock() + self.timeout_s
        try:
            with self.client.stream(
                request.method,
                request.path,
                content=request.content,
                headers=request.headers,
                timeout=httpx.Timeout(self.timeout_s),
            ) as response:
                body = self._body(response, deadline)
        except httpx.TimeoutException as error:
            raise BusyError(f"{self.service}: no answer within {self.timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise BusyError(f"{self.service}: cannot be reached: {error}") from error
        if response.is_success:
            return body
        message = f"{self.service}: answered {response.status_code}: {body[:200].decode(errors='replace')}"
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            raise BusyError(message, _retry_after_s(response))
        raise RefusedError(message)

    def _body(self, response: httpx.Response, deadline: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise RefusedError(f"{self.service}: expected at most {MAX_ANSWER_BYTES} bytes; its answer is longer")
            if self.clock() > deadline:
                raise BusyError(f"{self.service}: no whole answer within {self.timeout_s:g} s")
        return b"".join(parts)


def _retry_after_s(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), MAX_RETRY_AFTER_S) if value.isdigit() else None


def _pause(state: RetryCallState) -> float:
    error = state.outcome and state.outcome.exception()
    if isinstance(error, BusyError) and error.retry_after_s is not None:
        return error.retry_after_s
    return wait_exponential(multiplier=0.5, max=30.0)(state)
