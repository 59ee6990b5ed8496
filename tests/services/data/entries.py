"""Entries to put into a queue."""

from rollout.types import Behaviour
from services.data.wire import GroupEntry, WireBehaviour, WirePrompt, WireVersion


def group_entry(ordinal, attempt=0, text="write 42 in red"):
    """A drawn group without blobs."""
    return GroupEntry(
        ordinal=ordinal,
        attempt=attempt,
        prompt=WirePrompt(id=f"p{ordinal}", text=text, metadata={"target": "42"}, references=()),
        behaviour=WireBehaviour.of(Behaviour(sigmas=(1.0, 0.0), temperatures=(0.9,), height=8, width=8)),
        weights=WireVersion(version=3, update=2, lineage=0, digest="ab"),
        transitions=(0,),
        diversity=(0.5,),
        image_steps=(0,),
        latents=(),
        images=(),
        producer="rollout-0/a",
        created_ms=0,
        timings={},
    )
