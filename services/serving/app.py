"""The reward protocol over HTTP: health, capabilities, score, metrics; FastAPI writes the OpenAPI description."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from rewards.remote_wire import FORMATS, VERSION, FrameError, Limits, TooLargeError, decode_question
from rewards.reward import Reward, RewardError
from services.observe.serving_metrics import ServingMetrics
from services.serving.batcher import Batcher
from services.serving.config import ServingConfig

LOG = logging.getLogger(__name__)
BEARER = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
FRAME: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Eight bytes with the header's length, little-endian; the header, JSON; the images.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class Health(BaseModel):
    """The server answers."""

    status: str
    version: int


class RequestLimits(BaseModel):
    """The most that one request may hold."""

    max_images: int
    max_bytes: int
    max_pixels: int


class Capabilities(BaseModel):
    """What the server scores, and what it takes."""

    versions: list[int]
    formats: list[str]
    reward: str
    range: tuple[float, float]
    required_metadata: list[str]
    limits: RequestLimits


class Answer(BaseModel):
    """One score per image, in their order."""

    version: int
    reward: str
    scores: list[float]


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Not a frame of this protocol's version."},
    401: {"model": Problem, "description": "No token, or a wrong one."},
    411: {"model": Problem, "description": "No Content-Length."},
    413: {"model": Problem, "description": "Beyond the limits."},
    422: {"model": Problem, "description": "The reward cannot judge these prompts or metadata."},
    429: {"model": Problem, "description": "Too much is waiting; try again after Retry-After seconds."},
    500: {"model": Problem, "description": "The reward failed; it is never answered with a made-up score."},
}


class RewardServer:
    """A reward behind HTTP; `app` is the ASGI application."""

    def __init__(self, reward: Reward, config: ServingConfig, token: str | None) -> None:
        """token: what clients must send, None if nothing."""
        self._reward = reward
        self._config = config
        self._token = token
        self._metrics = ServingMetrics(reward.name)
        self._batcher = Batcher(reward, config.batch_images, self._metrics)
        self._held_bytes = 0
        self.app = self._build()

    def _build(self) -> FastAPI:
        app = FastAPI(title="TAFS reward server", version=str(VERSION), lifespan=self._lifespan)
        guarded = [Depends(self._authenticate)]
        app.get("/health", response_model=Health)(self._health)
        app.get("/capabilities", response_model=Capabilities, dependencies=guarded)(self._capabilities)
        app.get("/metrics", response_class=Response, dependencies=guarded)(self._exposition)
        app.post("/v1/score", response_model=Answer, responses=PROBLEMS, dependencies=guarded, openapi_extra=FRAME)(
            self._score
        )
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(self._batcher.run())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def _authenticate(self, sent: BEARER) -> None:
        if self._token is None:
            return
        if sent is None or not hmac.compare_digest(sent.credentials.encode(), self._token.encode()):
            raise HTTPException(401, "expected the server's token as a bearer token", {"WWW-Authenticate": "Bearer"})

    def _health(self) -> Health:
        """Whether the server answers; needs no token."""
        return Health(status="ok", version=VERSION)

    def _capabilities(self) -> Capabilities:
        """What is scored here, and what a request may hold."""
        limits = self._config.limits
        return Capabilities(
            versions=[VERSION],
            formats=list(FORMATS),
            reward=self._reward.name,
            range=self._reward.range,
            required_metadata=list(self._reward.required_metadata),
            limits=RequestLimits(
                max_images=limits.max_images, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels
            ),
        )

    def _exposition(self) -> Response:
        """Prometheus metrics."""
        return Response(self._metrics.exposition(), media_type="text/plain; version=0.0.4")

    async def _score(self, request: Request) -> Response:
        """One score per image."""
        try:
            with self._hold(request) as size_bytes:
                answer = await self._answer(await _body(request, size_bytes), self._config.limits)
        except HTTPException as error:
            self._metrics.answered(error.status_code)
            raise
        self._metrics.answered(200)
        return JSONResponse(answer.model_dump())

    @contextlib.contextmanager
    def _hold(self, request: Request) -> Iterator[int]:
        """Room for the request's bytes, kept until it is answered."""
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            raise HTTPException(411, "expected a Content-Length")
        size_bytes = int(length)
        if size_bytes > self._config.max_bytes:
            raise HTTPException(413, f"expected at most {self._config.max_bytes} bytes; found {size_bytes}")
        if self._held_bytes + size_bytes > self._config.max_waiting_bytes:
            seconds = self._batcher.seconds_ahead()
            raise HTTPException(429, f"busy for about {seconds} s", {"Retry-After": str(seconds)})
        self._held_bytes += size_bytes
        self._metrics.held(self._held_bytes)
        try:
            yield size_bytes
        finally:
            self._held_bytes -= size_bytes
            self._metrics.held(self._held_bytes)

    async def _answer(self, frame: bytearray, limits: Limits) -> Answer:
        try:
            question = await asyncio.to_thread(decode_question, frame, limits)
        except TooLargeError as error:
            raise HTTPException(413, str(error)) from error
        except FrameError as error:
            raise HTTPException(400, str(error)) from error
        try:
            scores = await self._batcher.score(question)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        except RewardError as error:
            LOG.warning("the reward failed: %s", error)
            raise HTTPException(500, str(error)) from error
        except Exception as error:  # the server's edge: a stranger's reward may raise anything
            LOG.exception("the reward failed")
            raise HTTPException(500, f"the reward failed: {type(error).__name__}") from error
        return Answer(version=VERSION, reward=self._reward.name, scores=[float(score) for score in scores])


async def _body(request: Request, size_bytes: int) -> bytearray:
    frame = bytearray(size_bytes)
    start = 0
    async for part in request.stream():
        if start + len(part) > size_bytes:
            raise HTTPException(400, f"expected {size_bytes} bytes as announced; found more")
        frame[start : start + len(part)] = part
        start += len(part)
    if start != size_bytes:
        raise HTTPException(400, f"expected {size_bytes} bytes as announced; found {start}")
    return frame
