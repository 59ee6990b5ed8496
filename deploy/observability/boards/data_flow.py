"""Rates, the queue, and what everything costs."""

from __future__ import annotations

from deploy.observability.boards.shared import ENTRIES, FATES, PHASES, STALENESS, Rows
from deploy.observability.panels import BAD, Bands, Chart, Query

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
    "Workers": (
        Chart(
            title="Workers by state",
            description="How many workers are healthy, starting, suspect (silent), restarting or given up, by role.",
            queries=[Query(expr='count by (role, state) (tafs_worker_state{run="$run"})', legend="{{role}} {{state}}")],
            unit="none",
            alerts=("WorkerCrashLoop",),
            lowest=0,
        ),
        Chart(
            title="Busy share",
            description="Share of its time in which a worker had work in hand. A role at 1 holds the others up; "
            "one far below has workers to spare.",
            queries=[
                Query(
                    expr='rate(tafs_worker_busy_seconds_total{run="$run"}[$window])'
                    ' / (rate(tafs_worker_busy_seconds_total{run="$run"}[$window])'
                    ' + rate(tafs_worker_idle_seconds_total{run="$run"}[$window]))',
                    legend="{{role}} {{replica}}",
                )
            ],
            unit="percentunit",
            lowest=0,
        ),
        Chart(
            title="Weights by worker",
            description="How many versions a worker's weights lie behind the newest. One without work keeps old ones.",
            queries=[
                Query(
                    expr='scalar(max (tafs_weights_version{run="$run"})) - tafs_worker_weights_version{run="$run"}',
                    legend="{{role}} {{replica}}",
                ),
                Query(expr='max (tafs_weights_digest_conflicts{run="$run"})', legend="digest conflicts"),
                Query(expr='max (tafs_max_staleness_updates{run="$run"})', legend="allowed"),
            ],
            unit="none",
            alerts=("WeightsLagging", "WeightsDigestMismatch"),
        ),
        Chart(
            title="Images per second by worker",
            description="Drawn, scored or learned from.",
            queries=[
                Query(expr='rate(tafs_worker_images_total{run="$run"}[$window])', legend="{{role}} {{replica}}"),
            ],
            unit="none",
            lowest=0,
        ),
        Chart(
            title="Groups per minute by worker",
            description="Pieces of work done. A worker that stands out from its role has a slow host.",
            queries=[
                Query(expr='60 * rate(tafs_worker_groups_total{run="$run"}[$window])', legend="{{role}} {{replica}}"),
            ],
            unit="none",
            lowest=0,
        ),
        Chart(
            title="Deaths",
            description="Processes that died since the run's process started, by slot. One that comes back costs only "
            "the group it had in hand. Those that were their node's raise no alert.",
            queries=[
                Query(expr='tafs_worker_deaths_total{run="$run"}', legend="{{role}} {{replica}}"),
                Query(expr='tafs_worker_deaths_forgiven_total{run="$run"}', legend="{{role}} {{replica}}, its node's"),
            ],
            unit="none",
            alerts=("WorkerCrashLoop",),
            lowest=0,
        ),
        Chart(
            title="GPU memory by worker",
            description="What PyTorch holds, cached blocks included. How busy a GPU is comes from Ray's own metrics "
            "(ray_node_gpus_utilization), by node.",
            queries=[
                Query(expr='tafs_worker_gpu_memory_bytes{run="$run"}', legend="{{role}} {{replica}}"),
            ],
            unit="bytes",
            lowest=0,
        ),
        Chart(
            title="Last heartbeat",
            description="Seconds since a worker was heard of. A worker that falls silent is suspect, then replaced.",
            queries=[Query(expr='tafs_worker_heartbeat_age_seconds{run="$run"}', legend="{{role}} {{replica}}")],
            unit="s",
            lowest=0,
        ),
    ),
    "Queue": (
        ENTRIES,
        Chart(
            title="Oldest group by stage",
            description="A saw tooth in a healthy run. A straight line up: somebody holds a group and does not move.",
            queries=[
                Query(expr='tafs_queue_oldest_entry_age_seconds{run="$run"}', legend="{{stage}}"),
                Query(
                    expr='clamp_min(10 * max (max_over_time(tafs_update_duration_seconds{run="$run"}[30m])), 300)',
                    legend="alert",
                ),
            ],
            unit="s",
            alerts=("PendingStuck",),
            lowest=0,
        ),
        Chart(
            title="Groups in flight",
            description="Bounded by (max_staleness + 1) * groups_per_update, less what the last updates consumed.",
            queries=[Query(expr='tafs_groups_in_flight{run="$run"}', legend="in flight")],
            unit="none",
            lowest=0,
        ),
        Chart(
            title="Payloads in flight",
            description="Bytes of latents and images of the groups in flight. At the limit (fleet.max_payload_bytes) "
            "new groups wait for room; a limit of 0 is none.",
            queries=[
                Query(expr='tafs_payload_bytes{run="$run"}', legend="in flight"),
                Query(expr='tafs_payload_limit_bytes{run="$run"}', legend="limit"),
            ],
            unit="bytes",
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
        Bands(
            title="Where a group's time goes",
            description="Mean seconds of each stretch of a group's way, from its ticket to the end of the update that "
            "learned from it. What waits longest stands in front of the role that is too slow.",
            queries=[
                Query(
                    expr='sum by (stretch) (rate(tafs_group_seconds_total{run="$run"}[$window]))'
                    ' / on () group_left () sum (rate(tafs_groups_consumed_total{run="$run"}[$window]))',
                    legend="{{stretch}}",
                )
            ],
            unit="s",
        ),
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
            title="Seconds per image by reward",
            description="Wall clock within each reward's calls. The slowest decides how fast groups are scored.",
            queries=[
                Query(
                    expr='rate(tafs_reward_call_seconds_total{run="$run"}[$window])'
                    ' / rate(tafs_reward_images_total{run="$run"}[$window])',
                    legend="{{reward}}",
                )
            ],
            unit="s",
            lowest=0,
        ),
        Chart(
            title="Failed calls by reward",
            description="Share of each reward's calls that raised, or answered what is no score. Their groups are "
            "drawn again, and end as dead letters if it goes on.",
            queries=[
                Query(
                    expr='rate(tafs_reward_call_failures_total{run="$run"}[$window])'
                    ' / rate(tafs_reward_calls_total{run="$run"}[$window])',
                    legend="{{reward}}",
                )
            ],
            unit="percentunit",
            lowest=0,
        ),
        Chart(
            title="Reward servers",
            description="Tries after the first one, per minute, and workers that have stopped asking a server that "
            "failed too often. Rewards without a server stay at 0.",
            queries=[
                Query(
                    expr='60 * rate(tafs_reward_call_retries_total{run="$run"}[$window])', legend="{{reward}} retries"
                ),
                Query(expr='tafs_reward_breakers_open{run="$run"}', legend="{{reward}} breakers open"),
            ],
            unit="none",
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
