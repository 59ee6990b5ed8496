"""Is the run well, does it learn, what holds it up, what breaks?"""

from __future__ import annotations

from deploy.observability.boards.shared import ENTRIES, FATES, PHASES, REWARDS, STALENESS, Rows
from deploy.observability.panels import BAD, WARNING, Chart, Query, Stat

OVERVIEW: Rows = {
    "Is it well?": (
        Stat(
            title="State",
            description="What the run is doing. Nothing here: it has ended, or does not answer.",
            queries=[Query(expr='max by (state) (tafs_run_state{run="$run"} == 1)', legend="{{state}}")],
            alerts=("ExporterAbsent",),
            shows_name=True,
        ),
        Stat(
            title="Alerts",
            description="Alerts of this run that are firing; the runbook has a heading for each.",
            queries=[Query(expr='count (ALERTS{run="$run",alertstate="firing"}) or vector(0)')],
            limits=((1, BAD),),
        ),
        Stat(
            title="Progress",
            description="Updates done, of those planned.",
            queries=[Query(expr='max (tafs_update{run="$run"}) / max (tafs_planned_updates{run="$run"})')],
            unit="percentunit",
            decimals=0,
        ),
        Stat(
            title="Time left",
            description="At the speed of the last while; the final evaluation comes on top.",
            queries=[
                Query(
                    expr='(max (tafs_planned_updates{run="$run"}) - max (tafs_update{run="$run"}))'
                    ' / sum (rate(tafs_updates_total{run="$run"}[$window]))'
                )
            ],
            unit="s",
        ),
        Stat(
            title="Since the last update",
            description="In updates as long as the longest of the last half hour, at least 40 s. At 3 the run counts "
            "as stalled.",
            queries=[
                Query(
                    expr='(time() - max (tafs_last_update_timestamp_seconds{run="$run"}))'
                    ' / clamp_min(max (max_over_time(tafs_update_duration_seconds{run="$run"}[30m])), 40)'
                )
            ],
            unit="suffix: updates",
            decimals=1,
            alerts=("RunStalled",),
            limits=((2, WARNING), (3, BAD)),
        ),
        Stat(
            title="Work at risk",
            description="Time since the last checkpoint, or since the start: what would be lost if the run died now.",
            queries=[
                Query(
                    expr="time() - max (tafs_checkpoint_last_success_timestamp_seconds"
                    '{run="$run"} or tafs_run_start_timestamp_seconds{run="$run"})'
                )
            ],
            unit="s",
            alerts=("CheckpointOld",),
            limits=((1800, WARNING), (3600, BAD)),
        ),
    ),
    "Does it learn?": (
        REWARDS,
        Chart(
            title="Updates per minute",
            description="Speed of the whole loop.",
            queries=[Query(expr='60 * sum (rate(tafs_updates_total{run="$run"}[$window]))', legend="updates")],
            unit="none",
            alerts=("RunStalled",),
            lowest=0,
        ),
    ),
    "What holds it up?": (PHASES, ENTRIES, STALENESS),
    "What breaks?": (
        FATES,
        Chart(
            title="Redis",
            description="Seconds that the server took to tell the queue's figures. A gap: it did not answer.",
            queries=[Query(expr='tafs_redis_command_duration_seconds{run="$run"}', legend="answer")],
            unit="s",
            alerts=("RedisDown", "RedisSlow"),
            limits=((0.5, BAD),),
            lowest=0,
        ),
        Chart(
            title="Server answers",
            description="1 while the Redis server answers, 0 while it does not.",
            queries=[
                Query(expr='tafs_redis_up{run="$run"}', legend="Redis"),
                Query(expr='up{job="tafs",run="$run"}', legend="run"),
            ],
            unit="none",
            alerts=("RedisDown", "ExporterAbsent"),
            lowest=0,
        ),
        Chart(
            title="Server memory",
            description="What the Redis server uses, and may use. At its limit it takes no new work until updates make "
            "room. Empty: it does not tell.",
            queries=[
                Query(expr='tafs_redis_memory_used_bytes{run="$run"}', legend="used"),
                Query(expr='tafs_redis_memory_limit_bytes{run="$run"}', legend="limit"),
            ],
            unit="bytes",
            alerts=("RedisFull",),
            lowest=0,
            width=24,
            height=6,
        ),
    ),
}
