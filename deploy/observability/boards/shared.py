"""Panels that stand on several dashboards. Every expression names its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploy.observability.panels import Bands, Chart, Query, Spec

Rows = Mapping[str, Sequence[Spec]]
"""Panels by the heading of their row."""

PHASES = Bands(
    title="Where the learner's time goes",
    description="Shares of the learner's wall clock by phase. Mostly waiting: rollouts or rewards are the bottleneck, "
    "add workers there. Hardly any waiting: the learner is.",
    queries=[
        Query(
            expr='sum by (phase) (rate(tafs_phase_seconds_total{run="$run"}[$window]))'
            ' / on () group_left () sum (rate(tafs_phase_seconds_total{run="$run"}[$window]))',
            legend="{{phase}}",
        )
    ],
    unit="percentunit",
    alerts=("QueueStarved",),
)
ENTRIES = Bands(
    title="Groups by stage",
    description="Groups in flight. A stage that fills is followed by too few workers, or by hanging ones: tickets wait "
    "for rollout workers, groups for reward workers, scored groups for the learner.",
    queries=[Query(expr='tafs_queue_entries{run="$run"}', legend="{{stage}} {{state}}")],
    alerts=("PendingStuck",),
)
REWARDS = Chart(
    title="Reward by step",
    description="Mean reward of each update's images, by denoising step. All steps should rise; a fall by more than "
    "the spread within groups raises an alert.",
    queries=[Query(expr='tafs_reward_value{run="$run",stat="mean"}', legend="{{reward}} step {{step}}")],
    unit="none",
    alerts=("RewardCollapsed",),
    width=16,
)
FATES = Chart(
    title="Groups that came to nothing",
    description="Attempts that failed, were evicted, came twice, or were given up, per minute. Zero in a healthy run.",
    queries=[
        Query(
            expr='60 * sum by (stage) (rate(tafs_groups_failed_total{run="$run"}[$window]))', legend="failed: {{stage}}"
        ),
        Query(
            expr='60 * sum by (reason) (rate(tafs_groups_evicted_total{run="$run"}[$window]))',
            legend="evicted: {{reason}}",
        ),
        Query(expr='60 * rate(tafs_groups_dead_lettered_total{run="$run"}[$window])', legend="given up"),
        Query(expr='60 * rate(tafs_groups_duplicated_total{run="$run"}[$window])', legend="came twice"),
    ],
    alerts=("RolloutFailing", "RewardFailing", "DeadLettersGrowing", "StaleEvictionsHigh"),
    lowest=0,
)
STALENESS = Chart(
    title="Staleness",
    description="How many updates old the weights of the groups were that the learner consumed. Bounded by "
    "fleet.max_staleness; 0 is synchronous.",
    queries=[
        Query(
            expr='sum (rate(tafs_group_staleness_updates_sum{run="$run"}[$window]))'
            ' / sum (rate(tafs_group_staleness_updates_count{run="$run"}[$window]))',
            legend="mean",
        ),
        Query(
            expr="histogram_quantile(0.95, "
            'sum by (le) (rate(tafs_group_staleness_updates_bucket{run="$run"}[$window])))',
            legend="95 %",
        ),
    ],
    unit="none",
    alerts=("StaleEvictionsHigh",),
    lowest=0,
)
