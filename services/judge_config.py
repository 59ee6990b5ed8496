"""The run file's judges: model servers that the run starts for its own rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from services.block import Block, Rate
from services.reward_config import RewardConfig

SERVED = "served:"
"""A judge's `url` of this and a name is that judge of `fleet.judges`."""


class JudgeConfig(Block):
    """A server of OpenAI's chat completions, such as vLLM, that lives and ends with the run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Rewards ask it as `judge: {url: served:NAME, model: ...}`."""
    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """What is run, such as [vllm, serve, MODEL]; `--host` and `--port` are put behind it. A program of another
    environment is named by its path, and needs nothing of ours."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables of the process, beside those of the worker."""
    cpus: Rate = 1.0
    """Logical CPUs."""
    gpus: Annotated[float, Field(ge=0.0)] = 0.0
    """GPUs; the process sees no others."""
    ready_s: Rate = 900.0
    """Seconds until it must answer `GET /health`: loading the model."""


def check_judges(judges: Sequence[JudgeConfig], rewards: Sequence[RewardConfig]) -> None:
    """Raise ValueError unless every served judge is asked by a reward, and none is asked for that is not served."""
    names = [judge.name for judge in judges]
    if len(set(names)) != len(names):
        raise ValueError(f"fleet.judges: expected each name once, found {names}")
    asked = set()
    for reward in rewards:
        judge = reward.options.get("judge")
        url = str(judge.get("url")) if isinstance(judge, dict) else ""
        if url.startswith(SERVED):
            asked.add(url.removeprefix(SERVED))
            if asked - set(names):
                raise ValueError(
                    f"reward {reward.title}: expected judge.url to name one of fleet.judges "
                    f"({', '.join(names) or 'there is none'}); found {url!r}"
                )
    unused = sorted(set(names) - asked)
    if unused:
        raise ValueError(
            f"fleet.judges: {', '.join(unused)} has no effect: no reward has judge.url {SERVED}{unused[0]}"
        )
