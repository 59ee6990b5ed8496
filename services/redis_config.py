"""The run file's Redis users: who connects to the run's server as whom."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_serializer, field_validator

from services.block import Block

ServerRole = Literal["learner", "rollout", "reward", "exporter"]


class RedisUsersConfig(Block):
    """URLs of the server at `fleet.redis` for those who have a user of their own there, with fewer rights than the
    driver's; null = `fleet.redis` itself. docs/server.md has the users. No worker is told another role's URL.
    """

    learner: str | None = None
    """The learner's ranks."""
    rollout: str | None = None
    """The rollout workers."""
    reward: str | None = None
    """The reward workers."""
    exporter: str | None = None
    """What answers Prometheus; it only reads."""

    @field_validator("*")
    @classmethod
    def _empty_is_none(cls, url: str | None) -> str | None:
        """`${TAFS_REDIS_URL_LEARNER:-}` of an environment without one."""
        return url or None

    @field_serializer("*")
    def _without_their_passwords(self, url: str | None) -> str | None:
        """As they are written into run folders and reports."""
        return None if url is None else without_password(url)

    def url_of(self, role: ServerRole, driver: str) -> str:
        """What a role connects to. driver: the driver's URL."""
        urls = {"learner": self.learner, "rollout": self.rollout, "reward": self.reward, "exporter": self.exporter}
        return urls[role] or driver


def without_password(url: str) -> str:
    """A server's URL as it may be written down."""
    return re.sub(r"(//[^:/@]*):[^/]*@", r"\1:***@", url)
