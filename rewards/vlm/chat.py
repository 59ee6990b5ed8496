"""One judge: questions about pictures, asked of an OpenAI-compatible server, several at a time.

Temperature is 0, and an answer is kept by the digest of (server, model, question, pictures): asked again, it costs
nothing and is the same. Answers that cannot be read are errors and are not kept.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from rewards.breaker import Breaker
from rewards.http_call import CallStatistics, HttpCaller, Request
from rewards.remote import read_token
from rewards.reward import RewardError
from rewards.vlm.answers import Answers, digest
from rewards.vlm.engine import EngineCaller, VllmEngine
from rewards.vlm.pictures import PictureLimits

T = TypeVar("T")

IN_PROCESS = "in-process"
"""A judge's `url` of this is vLLM in the process that asks."""
TOP_LOGPROBS = 20
"""The most that OpenAI's protocol and vLLM give."""
MAX_JSON_TOKENS = 256
MAX_LOGPROB = 0.01
"""A little above 0, for servers that round."""


class UnreadableAnswerError(RewardError):
    """A judge answered, but not what it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A text about pictures."""

    text: str
    pictures: tuple[str, ...]  # data URLs
    schema: Mapping[str, Any] | None = None  # of the JSON to answer with; None: one token, with its logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A model behind a server."""

    call: HttpCaller | EngineCaller
    model: str
    pictures: PictureLimits
    concurrency: int  # questions that are asked at the same time
    answers: Answers = field(default_factory=lambda: Answers(0))

    def ask(self, questions: Sequence[Question], read: Callable[[bytes], T]) -> list[T]:
        """What `read` makes of each answer, in the questions' order.

        Raises RewardError if one of them cannot be answered; the others' answers are kept.
        """
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge") as threads:
            asked = [threads.submit(self._ask, question, read) for question in questions]
            return [answer.result() for answer in asked]

    def statistics(self) -> CallStatistics:
        """How the calls went so far; answers that were kept are no calls."""
        return self.call.statistics()

    def close(self) -> None:
        """Close the connections; nothing can be asked any more."""
        self.call.close()

    def _ask(self, question: Question, read: Callable[[bytes], T]) -> T:
        content = json.dumps(_payload(self.model, question)).encode()
        key = digest(self.call.service, content.decode())
        kept = self.answers.get(key)
        if kept is not None:
            return read(kept)
        request = Request(
            method="POST", path="chat/completions", content=content, headers={"Content-Type": "application/json"}
        )

        def read_and_keep(body: bytes) -> T:
            answer = read(body)
            self.answers.keep(key, body)
            return answer

        return self.call(request, read_and_keep)


def build_judge(
    *,
    url: str,
    model: str,
    engine: Mapping[str, Any] | None = None,
    token_file: str | None = None,
    timeout_s: float = 60.0,
    attempts: int = 5,
    breaker_failures: int = 8,
    breaker_pause_s: float = 30.0,
    concurrency: int = 16,
    max_side: int = 1024,
    max_picture_bytes: int = 8 * 2**20,
    kept_answers: int = 100_000,
) -> Judge:
    """The judge at `url`, such as http://host:8000/v1, or IN_PROCESS; nothing is asked yet.

    model: the server's name for it. engine: options of vllm.LLM for a judge in this process, which the options about
    calls do not concern; None elsewhere. token_file: a file with the API key, None if it asks for none. timeout_s:
    seconds for one try. attempts: tries of one question. breaker_failures: after so many failed questions in a row
    nothing is asked for breaker_pause_s seconds. concurrency: questions asked at the same time. max_side: pixels;
    larger pictures are shrunk. max_picture_bytes: of one picture as PNG. kept_answers: 0 = every question is asked.
    Raises ValueError for an option that cannot be.
    """
    if min(timeout_s, attempts, breaker_failures, concurrency, max_side) <= 0:
        raise ValueError("judge: expected timeout_s, attempts, breaker_failures, concurrency and max_side above 0")
    if (url == IN_PROCESS) != (engine is not None):
        raise ValueError(f"judge: expected `engine` with url {IN_PROCESS!r}, and only with it; found url {url!r}")
    limits = PictureLimits(max_side=max_side, max_bytes=max_picture_bytes)
    if engine is not None:
        options = {"model": model, **engine}
        asked = EngineCaller(f"{IN_PROCESS} {model}", lambda: VllmEngine(options))
        return Judge(call=asked, model=model, pictures=limits, concurrency=concurrency, answers=Answers(kept_answers))
    headers = {} if token_file is None else {"Authorization": f"Bearer {read_token(Path(token_file))}"}
    pool = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    call = HttpCaller(
        client=httpx.Client(base_url=url, headers=headers, limits=pool),
        service=url,
        timeout_s=timeout_s,
        attempts=attempts,
        breaker=Breaker(failures=breaker_failures, pause_s=breaker_pause_s, clock=time.monotonic),
    )
    return Judge(call=call, model=model, pictures=limits, concurrency=concurrency, answers=Answers(kept_answers))


def read_share(body: bytes, first: str, second: str) -> float:
    """P(first) / (P(first) + P(second)) for the first token of the answer, in any case and with any blanks around it.

    Raises UnreadableAnswerError if neither word is among the tokens that the server gives.
    """
    choice = _choice(body)
    try:
        top = choice["logprobs"]["content"][0]["top_logprobs"]
        found = [(str(entry["token"]).strip(" \u2581\u0120\n").casefold(), float(entry["logprob"])) for entry in top]
    except (KeyError, IndexError, TypeError, ValueError):
        raise UnreadableAnswerError(
            f"expected the log probabilities of the first token; found {str(choice)[:200]}; "
            "the server must support logprobs and top_logprobs"
        ) from None
    if not all(value <= MAX_LOGPROB for _, value in found):  # NaN is not, either
        raise UnreadableAnswerError(f"expected log probabilities of at most 0; found {found}")
    mass = [sum(math.exp(value) for token, value in found if token == word.casefold()) for word in (first, second)]
    share = mass[0] / sum(mass) if sum(mass) > 0 else math.nan
    if not math.isfinite(share):
        raise UnreadableAnswerError(
            f"expected {first!r} or {second!r} among the likely first tokens; found {[token for token, _ in found]}; "
            "change the template, or take a model that follows it"
        )
    return share


def read_numbers(body: bytes, names: Sequence[str], low: float, high: float) -> list[float]:
    """The numbers under these names in an answer of JSON. Raises UnreadableAnswerError unless all are in the range."""
    text = _choice(body).get("message", {}).get("content")
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        raise UnreadableAnswerError(f"expected an answer in JSON; found {str(text)[:200]!r}") from None
    numbers = []
    for name in names:
        value: Any = found.get(name) if isinstance(found, dict) else None
        if type(value) not in (int, float) or not low <= value <= high:
            raise UnreadableAnswerError(f"expected {name!r} from {low:g} to {high:g}; found {value!r}")
        numbers.append(float(value))
    return numbers


def _choice(body: bytes) -> dict[str, Any]:
    try:
        choice = json.loads(body)["choices"][0]
    except (ValueError, KeyError, IndexError, TypeError):
        choice = None
    if not isinstance(choice, dict) or not isinstance(choice.get("message", {}), dict):
        raise UnreadableAnswerError(f"expected a chat completion; found {bytes(body[:200])!r}")
    return choice


def _payload(model: str, question: Question) -> dict[str, Any]:
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in question.pictures]
    payload: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": [*pictures, {"type": "text", "text": question.text}]}],
        "temperature": 0,
    }
    if question.schema is None:
        return {**payload, "max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
    schema = {"name": "answer", "strict": True, "schema": question.schema}
    return {
        **payload,
        "max_tokens": MAX_JSON_TOKENS,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
