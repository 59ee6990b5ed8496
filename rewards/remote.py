"""A reward that another machine computes, behind the reward protocol (docs/reward-protocol.md).

Cost: the server's, and a copy of the pixels over the network. A call that fails raises RewardError, whatever the
reason; it never becomes a score.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
from numpy.typing import NDArray

from rewards.breaker import Breaker
from rewards.http_call import CallStatistics, HttpCaller, Request
from rewards.remote_wire import FORMATS, VERSION, Format, Limits, Question, decode_scores, encode_question
from rewards.reward import RewardError

HEADER_BYTES_PER_IMAGE = 4096
"""Room that is left for a prompt and its metadata when images are packed into requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteReward:
    """A server's reward, as it describes itself, under the name `remote:NAME`."""

    name: str
    range: tuple[float, float]
    required_metadata: tuple[str, ...]
    limits: Limits
    image_format: Format
    call: HttpCaller

    compares: ClassVar[bool] = False  # the protocol knows no groups

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """Scores [n] float32 of images [n, H, W, 3] uint8, in as many requests as the server's limits ask for."""
        size = self._images_per_request(images)
        parts = [np.zeros(0, np.float32)]
        for start in range(0, len(images), size):
            chosen = slice(start, start + size)
            question = Question(images=images[chosen], prompts=prompts[chosen], metadata=metadata[chosen])
            parts.append(self._ask(question))
        return np.concatenate(parts)

    def statistics(self) -> CallStatistics:
        """How the calls went so far."""
        return self.call.statistics()

    def close(self) -> None:
        """Close the connection; nothing can be scored any more."""
        self.call.close()

    def _ask(self, question: Question) -> NDArray[np.float32]:
        request = Request(
            method="POST",
            path="v1/score",
            content=encode_question(question, self.image_format),
            headers={"Content-Type": "application/octet-stream"},
        )
        return self.call(request, lambda body: decode_scores(body, len(question.prompts)))

    def _images_per_request(self, images: NDArray[np.uint8]) -> int:
        height, width = (int(size) for size in images.shape[1:3])
        pixels = height * width
        by_bytes = self.limits.max_bytes // (3 * pixels + HEADER_BYTES_PER_IMAGE)
        fit = min(self.limits.max_images, self.limits.max_pixels // pixels, by_bytes)
        if fit < 1:
            raise RewardError(
                f"reward {self.name!r}: expected images that fit {self.limits}; found {height}x{width}; "
                "change the limits in the server's configuration"
            )
        return fit


def build_remote(
    *,
    url: str,
    token_file: str | None = None,
    image_format: Format = "raw",
    timeout_s: float = 60.0,
    attempts: int = 5,
    breaker_failures: int = 3,
    breaker_pause_s: float = 30.0,
) -> RemoteReward:
    """The reward of the server at `url`, which is asked for its name, range and limits at once.

    token_file: a file with the server's token, None if it asks for none. image_format: "raw", or "png"
    for slow networks. timeout_s: seconds for one try. attempts: tries of one call. breaker_failures: after so many
    failed calls in a row the server is left alone for breaker_pause_s seconds, and scoring fails at once. Raises
    ValueError for an option that cannot be, RewardError if the server cannot be asked.
    """
    if image_format not in FORMATS:
        raise ValueError(f"reward 'remote': expected image_format of {', '.join(FORMATS)}; found {image_format!r}")
    if timeout_s <= 0 or attempts < 1 or breaker_failures < 1:
        raise ValueError("reward 'remote': expected timeout_s above 0, attempts and breaker_failures of at least 1")
    headers = {} if token_file is None else {"Authorization": f"Bearer {read_token(Path(token_file))}"}
    client = httpx.Client(base_url=url, headers=headers)
    breaker = Breaker(failures=breaker_failures, pause_s=breaker_pause_s, clock=time.monotonic)
    call = HttpCaller(client=client, service=url, timeout_s=timeout_s, attempts=attempts, breaker=breaker)
    try:
        return connect(call, image_format)
    except RewardError:
        client.close()
        raise


def connect(call: HttpCaller, image_format: Format) -> RemoteReward:
    """The reward behind a caller, as its server describes it. Raises RewardError if it does not."""
    return call(Request(method="GET", path="capabilities"), lambda body: _described(body, call, image_format))


def read_token(file: Path) -> str:
    """The token in a file, without the whitespace around it. Raises ValueError if there is none."""
    try:
        token = file.read_text("utf-8").strip()
    except OSError as error:
        raise ValueError(f"expected a token in the file {file}; found: {error}") from error
    if not token.isascii() or not token.isprintable() or not token:
        raise ValueError(f"expected a token of printable ASCII in the file {file}; found something else")
    return token


def _described(body: bytes, call: HttpCaller, image_format: Format) -> RemoteReward:
    try:
        found = json.loads(body)
        low, high = (float(end) for end in found["range"])
        limits = Limits(**{key: int(found["limits"][key]) for key in ("max_images", "max_bytes", "max_pixels")})
        reward = RemoteReward(
            name=f"remote:{found['reward']}",
            range=(low, high),
            required_metadata=tuple(found["required_metadata"]),
            limits=limits,
            image_format=image_format,
            call=call,
        )
    except (ValueError, TypeError, KeyError) as error:
        message = f"{call.service}: expected a reward server's capabilities; found {body[:200]!r}"
        raise RewardError(message) from error
    if VERSION not in found.get("versions", ()) or image_format not in found.get("formats", ()):
        raise RewardError(
            f"{call.service}: expected a server of version {VERSION} that takes {image_format}; found versions "
            f"{found.get('versions')} and formats {found.get('formats')}"
        )
    return reward
