"""Rates, the queue, and what everything costs."""

from __future__ import annotations

from deploy.observability.boards.shared import ENTRIES, FATES, PHASES, STALENESS, Rows
from deploy.observability.panels import BAD, WARNING, Chart, Query

DATA_FLOW: Rows = {
    "Rates": (
        Chart(
            title="Groups per minute",
            description="Given out and consumed. Over a while they must be equal.",
            queries=[
                Query(expr='60 * rate(tafs_groups_dispatched_total{run="$run"}[$window])', legend="dispatched"),
                Query(expr='60 * rate(tafs_groups_consumed_total{run="$run"}[$window])', legend="consumed"),
            ],
            unit="none",
            lowest=0,
        ),
        Chart(
            title="Images per second",
            description="Learned from.",
            queries=[Query(expr='rate(tafs_images_total{run="$run"}[$window])', legend="images")],
            unit="none",
            lowest=0,
        ),
        Chart(
            title="Weights version",
            description="The version that the last update published. It never falls, not even when a run goes on.",
            queries=[Query(expr='tafs_weights_version{run="$run"}', legend="version")],
            unit="none",
        ),
    ),
    "Queue": (
        ENTRIES,
        Chart(
            title="Oldest group by stage",
            description="A saw tooth in a healthy run. A straight line up: somebody holds a group and does not move.",
            queries=[Query(expr='tafs_queue_oldest_entry_age_seconds{run="$run"}', legend="{{stage}}")],
            unit="s",
            alerts=("PendingStuck",),
            limits=((300, WARNING),),
            lowest=0,
        ),
        Chart(
            title="Groups in flight",
            description="Bounded by (max_staleness + 1) * groups_per_update, less what the last updates consumed.",
            queries=[Query(expr='tafs_groups_in_flight{run="$run"}', legend="in flight")],
            unit="none",
            lowest=0,
        ),
        FATES,
        STALENESS,
        Chart(
            title="The learner waits",
            description="Share of its time in which the learner had nothing to learn from, over a quarter of an hour.",
            queries=[Query(expr='run:tafs_phase_wait:ratio_rate15m{run="$run"}', legend="waiting")],
            unit="percentunit",
            alerts=("QueueStarved",),
            limits=((0.9, BAD),),
            lowest=0,
        ),
    ),
    "Costs": (
        PHASES,
        Chart(
            title="CPU seconds per image",
            description="Inside network, decoder and scorer calls of all workers; update is the first learner rank's.",
            queries=[
                Query(
                    expr='sum by (call) (rate(tafs_call_seconds_total{run="$run"}[$window]))'
                    ' / on () group_left () sum (rate(tafs_images_total{run="$run"}[$window]))',
                    legend="{{call}}",
                )
            ],
            unit="s",
            lowest=0,
        ),
        Chart(
            title="Seconds per update and checkpoint",
            description="The last update with its waiting, and the last checkpoint: the learner stands still for both.",
            queries=[
                Query(expr='tafs_update_duration_seconds{run="$run"}', legend="update"),
                Query(expr='tafs_checkpoint_duration_seconds{run="$run"}', legend="checkpoint"),
            ],
            unit="s",
            alerts=("CheckpointOld", "RunStalled"),
            lowest=0,
        ),
    ),
}
