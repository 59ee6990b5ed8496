"""Scored groups as they stand in the queue."""

from services.data.codec import encode_trajectory
from services.data.wire import GroupEntry, RewardColumn, ScoredEntry, WireBehaviour, WirePrompt, WireVersion


def entry_of(scored, blobs) -> ScoredEntry:
    """As a rollout and a reward worker would have left it."""
    group = scored.group
    payloads = encode_trajectory(group.trajectory)
    drawn = GroupEntry(
        ordinal=group.ordinal,
        attempt=0,
        prompt=WirePrompt.of(group.prompt),
        behaviour=WireBehaviour.of(group.behaviour),
        weights=WireVersion.of(group.weights),
        transitions=tuple(group.trajectory.transitions),
        diversity=group.diversity,
        image_steps=(),
        latents=blobs.put([f"{group.ordinal}/{sample}" for sample in range(len(payloads))], payloads),
        images=(),
        producer="rollout-0",
        created_ms=0,
        timings={},
    )
    columns = tuple(RewardColumn.of(reward) for reward in scored.rewards)
    return ScoredEntry(group=drawn, rewards=columns, producer="reward-0", scored_ms=0, timings={})
