"""A judge inside this process: vLLM's engine behind the same questions as a server's.

The engine is made when it is first asked. Questions that wait go to it together, in one thread, and their answers take
the shape of OpenAI's chat completions, so that one reader reads both.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from rewards.http_call import CallStatistics, Request
from rewards.reward import MissingModelError, RewardError

T = TypeVar("T")

JSON_WITHOUT_BLANKS: Mapping[str, Any] = {
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}
}
"""A grammar of JSON allows blanks without end, and some models take them up; `engine` may say otherwise."""


class Engine(Protocol):
    """What is used of an engine."""

    def chat(self, questions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """One choice of a chat completion for each question, which are chat completions' requests."""


CLOSE_S = 60.0
"""How long an answer that is being made is waited for when the engine is closed."""


class EngineFailedError(RewardError):
    """The engine raised instead of answering."""


@dataclass(frozen=True, slots=True)
class _Asked:
    question: Mapping[str, Any]
    choice: "Future[Mapping[str, Any]]"


class EngineCaller:
    """Asks an engine; safe to use from several threads."""

    def __init__(self, service: str, make: Callable[[], Engine]) -> None:
        """`service` names it in errors; `make` is called once, in the engine's own thread."""
        self.service = service
        self._make = make
        self._waiting: SimpleQueue[_Asked | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._answered = self._failed = 0
        self._thread = threading.Thread(target=self._run, name="judge engine", daemon=True)
        self._started = self._closed = False

    def __call__(self, request: Request, read: Callable[[bytes], T]) -> T:
        """What `read` makes of the answer. Raises EngineFailedError, or what `read` refuses the answer with."""
        asked = _Asked(json.loads(request.content), Future())
        with self._lock:
            if self._closed:
                raise EngineFailedError(f"{self.service}: asked after it was closed")
            if not self._started:
                self._started = True
                self._thread.start()
            self._waiting.put(asked)
        try:
            answer = read(json.dumps({"choices": [asked.choice.result()]}).encode())
        except RewardError:
            self._count(failed=1)
            raise
        self._count(answered=1)
        return answer

    def statistics(self) -> CallStatistics:
        """How the questions went so far; an engine is never asked twice."""
        return CallStatistics(answered=self._answered, retries=0, failed=self._failed, breaker_open=False)

    def close(self) -> None:
        """Ask nothing more; what waits is answered."""
        with self._lock:
            self._closed = True
            self._waiting.put(None)
        if self._started:
            self._thread.join(CLOSE_S)

    def _count(self, *, answered: int = 0, failed: int = 0) -> None:
        with self._lock:
            self._answered += answered
            self._failed += failed

    def _run(self) -> None:
        engine: Engine | None = None
        last = False
        while not last and (first := self._waiting.get()) is not None:
            batch = [first]
            while not last and not self._waiting.empty():
                following = self._waiting.get()
                last = following is None
                batch += [] if following is None else [following]
            try:
                engine = engine or self._make()
                choices = engine.chat([asked.question for asked in batch])
            except Exception as error:  # the engine's edge: whatever it raises is the answer to these questions
                for asked in batch:
                    asked.choice.set_exception(_told(self.service, error))
            else:
                for asked, choice in zip(batch, choices, strict=True):
                    asked.choice.set_result(choice)


def _told(service: str, error: Exception) -> RewardError:
    return error if isinstance(error, RewardError) else EngineFailedError(f"{service}: {type(error).__name__}: {error}")


class VllmEngine:
    """vLLM's LLM class."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """options: of vllm.LLM, such as model and max_model_len. MissingModelError where vLLM is not installed."""
        try:
            import vllm
            from vllm.sampling_params import StructuredOutputsParams
        except ImportError as error:
            raise MissingModelError(
                f"expected vLLM for a judge in this process; found: {error}; install it, or serve the judge elsewhere"
            ) from error
        self._sampling: Callable[..., Any] = vllm.SamplingParams
        self._structured: Callable[..., Any] = StructuredOutputsParams
        self._llm = vllm.LLM(**{**JSON_WITHOUT_BLANKS, **options})

    def chat(self, questions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """One choice for each request."""
        messages = [question["messages"] for question in questions]
        outputs = self._llm.chat(messages, [self._parameters(question) for question in questions], use_tqdm=False)
        return [_choice(output.outputs[0]) for output in outputs]

    def _parameters(self, question: Mapping[str, Any]) -> Any:  # noqa: ANN401 - vLLM's SamplingParams
        limits = {"temperature": question["temperature"], "max_tokens": question["max_tokens"]}
        if "response_format" not in question:
            return self._sampling(**limits, logprobs=question["top_logprobs"])
        schema = question["response_format"]["json_schema"]["schema"]
        return self._sampling(**limits, structured_outputs=self._structured(json=schema))


def _choice(output: Any) -> Mapping[str, Any]:  # noqa: ANN401 - vLLM's CompletionOutput
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": output.text}}
    if output.logprobs:
        top = [{"token": entry.decoded_token, "logprob": entry.logprob} for entry in output.logprobs[0].values()]
        choice["logprobs"] = {"content": [{"top_logprobs": top}]}
    return choice
