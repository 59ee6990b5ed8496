"""The configuration of a reward server; every field is documented below it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rewards.remote_wire import Limits

Positive = Annotated[int, Field(ge=1)]
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ServingConfig(BaseModel):
    """A reward server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use: str
    """A built-in reward's name, a plugin's, or `package.module:function` of your own, as in a run file."""
    options: dict[str, Any] = {}
    """Passed to the reward when it is built."""
    host: str = "127.0.0.1"
    """Interface to listen on; any but this machine's own needs `token_file`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8417
    """0 = any free port."""
    token_file: Path | None = None
    """A file with the token that clients must send; null = everyone who reaches the port may ask."""
    max_images: Positive = 256
    """Most images in one request."""
    max_bytes: Positive = 256 * 2**20
    """Most bytes in one request."""
    max_pixels: Positive = 64 * 2**20
    """Most pixels in one request, over all its images: what a compressed image may unfold to."""
    max_waiting_bytes: Positive = 1024 * 2**20
    """Bytes of all requests that are being received, waiting or being scored; beyond it the answer is 429."""
    batch_images: Positive = 32
    """Images of waiting requests are scored together up to this number; a larger request is scored alone."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.host not in LOOPBACK and self.token_file is None:
            raise ValueError(f"host {self.host} can be reached from other machines and needs token_file")
        if self.max_waiting_bytes < self.max_bytes:
            raise ValueError("max_waiting_bytes is below max_bytes: a request of max_bytes could never be taken")
        return self

    @property
    def limits(self) -> Limits:
        """What one request may hold."""
        return Limits(max_images=self.max_images, max_bytes=self.max_bytes, max_pixels=self.max_pixels)
