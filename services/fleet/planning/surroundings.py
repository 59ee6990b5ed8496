"""What a run stands on, looked at before a start: server, Ray, shared memory, clocks, and whose code is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from redis import Redis

from services.config import RunConfig
from services.data.server import connect, find_binary, impatient, reaching_server
from services.errors import ConfigError, ServerUnavailable
from services.fleet.planning.placement import GIB

PACKAGES = ("rollout", "rewards", "learner", "services")
FLOOR = (7, 0)
"""The oldest Redis that the scripts run on."""
POLICY = "noeviction"
ANSWER_S = 5.0
SKEW_S = 1.0
"""Clocks farther apart shift the moments of a group's way against each other."""
SHM = Path("/dev/shm")
SHM_GIB = 1.0
"""Less is what a container gets by default; Ray then keeps objects on disk."""


def check_surroundings(config: RunConfig) -> list[str]:
    """One sentence about each thing that was looked at. ConfigError for what would break the run, ServerUnavailable
    where there is no server.
    """
    lines = [origin_line({name: _origin(name) for name in PACKAGES})]
    lines += _own_server() if config.fleet.redis is None else _server(connect(config.fleet.redis))
    lines.append(ray_line(os.environ, importlib.metadata.version("ray")))
    if SHM.is_dir():
        found = os.statvfs(SHM)
        lines.append(shm_line(found.f_bavail * found.f_frsize / GIB))
    return lines


def origin_line(origins: Mapping[str, Path]) -> str:
    """Where our packages are imported from. ConfigError where they do not lie side by side."""
    parents = {name: origin.parent for name, origin in origins.items()}
    if len(set(parents.values())) > 1:
        found = ", ".join(f"{name} in {parent}" for name, parent in parents.items())
        raise ConfigError(
            f"expected our packages side by side, found {found}: another package of that name comes first in sys.path; "
            "remove it, or run in an environment of its own"
        )
    return f"packages: {', '.join(origins)} in {next(iter(parents.values()))}"


def server_lines(info: Mapping[str, object], skew_s: float) -> list[str]:
    """What the server's INFO says. ConfigError for one that is too old, or that may throw keys away.

    skew_s: how far its clock is ahead of ours.
    """
    version = str(info.get("redis_version", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < FLOOR:
        raise ConfigError(f"fleet.redis: expected a server of version {FLOOR[0]}.{FLOOR[1]} or later, found {version}")
    policy = str(info.get("maxmemory_policy", POLICY))
    if policy != POLICY and int(str(info.get("maxmemory", 0))) > 0:
        raise ConfigError(
            f"fleet.redis: expected maxmemory-policy {POLICY}, found {policy}: a full server would throw groups away; "
            f"`CONFIG SET maxmemory-policy {POLICY}`"
        )
    name = "valkey" if "valkey_version" in info else "redis"
    limit = int(str(info.get("maxmemory", 0)))
    memory = f"{limit / GIB:.1f} GiB" if limit else "no limit"
    clock = f"clock: the server's is {skew_s:+.2f} s from ours"
    if abs(skew_s) > SKEW_S:
        clock += ": what a group took is told by both, set them right"
    return [f"server: {name} speaking {version}, {policy}, {memory}", clock]


def ray_line(environment: Mapping[str, str], version: str) -> str:
    """How the run would come to a Ray cluster, and who else may."""
    address = environment.get("RAY_ADDRESS")
    if not address:
        return f"ray: {version}, a private cluster with a token of its own"
    if environment.get("RAY_AUTH_MODE") == "token":
        return f"ray: {version} here, the cluster at {address}, with a token"
    return (
        f"ray: {version} here, the cluster at {address} WITHOUT authentication: whoever reaches its ports runs code "
        "there; set RAY_AUTH_MODE=token on all nodes"
    )


def shm_line(free_gib: float) -> str:
    """What Ray has for objects."""
    small = "" if free_gib >= SHM_GIB else ", which is little: Ray will keep objects on disk; raise --shm-size"
    return f"shared memory: {free_gib:.1f} GiB free{small}"


def _origin(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    places = [] if spec is None else [*(spec.submodule_search_locations or ())]
    if not places:
        raise ConfigError(f"expected the package {name!r} beside this one, found none")
    return Path(places[0]).resolve()


def _own_server() -> list[str]:
    binary = find_binary()
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=ANSWER_S, check=False)
    if done.returncode:
        raise ServerUnavailable(f"{binary} --version: {done.stderr.strip() or done.returncode}")
    return [f"server: a private one, {done.stdout.strip()}"]


def _server(redis: Redis) -> list[str]:
    client = impatient(redis, ANSWER_S)
    with reaching_server(ConfigError, "ask fleet.redis how it is"):
        info = cast("dict[str, object]", client.info())
        before = time.time()
        seconds, microseconds = client.time()
        after = time.time()
    return server_lines(info, seconds + microseconds / 1e6 - (before + after) / 2)
