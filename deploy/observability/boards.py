"""The panels of the dashboards, row by row. Every expression names its run; a test runs each against Prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploy.observability.panels import BAD, WARNING, Bands, Chart, Query, Spec, Stat

Rows = Mapping[str, Sequence[Spec]]

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
            description="Three times the usual, and the run counts as stalled.",
            queries=[Query(expr='time() - max (tafs_last_update_timestamp_seconds{run="$run"})')],
            unit="s",
            alerts=("RunStalled",),
            limits=((120, WARNING), (600, BAD)),
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
    ),
}

LEARNING: Rows = {
    "Rewards": (
        REWARDS,
        Chart(
            title="Reward, smoothed",
            description="The mean of five minutes, by step: what the alert on a collapse compares with the best of "
            "six hours.",
            queries=[
                Query(expr='run_reward_step:tafs_reward_mean:avg5m{run="$run"}', legend="{{reward}} step {{step}}")
            ],
            unit="none",
            alerts=("RewardCollapsed",),
        ),
        Chart(
            title="Spread within groups",
            description="Mean standard deviation of the rewards within a group, by step. Advantages are relative to "
            "it: without spread nothing is learned.",
            queries=[Query(expr='tafs_reward_value{run="$run",stat="spread"}', legend="{{reward}} step {{step}}")],
            unit="none",
            lowest=0,
            width=12,
        ),
        Chart(
            title="Groups that teach nothing",
            description="Share of groups whose samples all scored the same. Towards 1: the prompts are solved, or "
            "hopeless, or the reward is blind.",
            queries=[Query(expr='tafs_reward_zero_spread_ratio{run="$run"}', legend="{{reward}} step {{step}}")],
            unit="percentunit",
            limits=((0.9, WARNING),),
            lowest=0,
            width=12,
        ),
    ),
    "Update": (
        Chart(
            title="Advantage",
            description="Standard deviation of the advantages, by step. A step at zero is not trained.",
            queries=[Query(expr='tafs_advantage_std{run="$run"}', legend="step {{step}}")],
            unit="none",
            lowest=0,
        ),
        Chart(
            title="Gradient norm",
            description="Before clipping. A steady rise comes before a collapse.",
            queries=[Query(expr='tafs_grad_norm{run="$run"}', legend="norm")],
            unit="none",
            alerts=("NonFinite",),
            lowest=0,
        ),
        Chart(
            title="Loss",
            description="Of the last update. With one optimizer step on fresh groups it says little: look at rewards.",
            queries=[Query(expr='tafs_loss{run="$run"}', legend="loss")],
            unit="none",
        ),
        Chart(
            title="Learning rate",
            description="Warm-up, then a cosine to its final share.",
            queries=[Query(expr='tafs_learning_rate{run="$run"}', legend="rate")],
            unit="sci",
            lowest=0,
        ),
        Chart(
            title="Divergence from the reference",
            description="0 where learning.kl_weight is 0: it is not asked for.",
            queries=[Query(expr='tafs_kl{run="$run"}', legend="kl")],
            unit="none",
            lowest=0,
        ),
        Chart(
            title="Updates that were not finite",
            description="Optimizer steps left out because a gradient was not finite, since the process started.",
            queries=[Query(expr='tafs_nonfinite_updates_total{run="$run"}', legend="left out")],
            unit="none",
            alerts=("NonFinite",),
            limits=((3, BAD),),
            lowest=0,
        ),
    ),
    "Trust": (
        Chart(
            title="Drift from the behaviour policy",
            description="Root mean square, in standard deviations of the transition's noise, by step. Above "
            "learning.drift_max pairs are dropped.",
            queries=[Query(expr='tafs_drift{run="$run"}', legend="step {{step}}")],
            unit="none",
            alerts=("PairsDropped",),
            lowest=0,
        ),
        Chart(
            title="Largest log ratio",
            description="Per dimension, by step: how far the worst pair moved.",
            queries=[Query(expr='tafs_log_ratio_max{run="$run"}', legend="step {{step}}")],
            unit="none",
            lowest=0,
        ),
        Chart(
            title="Pairs that do not train",
            description="Shares of all pairs of sample and step: clipped, skipped for an advantage of zero, dropped "
            "for their drift.",
            queries=[
                Query(expr='tafs_clipped_pairs_ratio{run="$run"}', legend="clipped"),
                Query(expr='tafs_skipped_pairs_ratio{run="$run"}', legend="skipped"),
                Query(expr='tafs_dropped_pairs_ratio{run="$run"}', legend="dropped"),
            ],
            unit="percentunit",
            alerts=("PairsDropped",),
            lowest=0,
        ),
        Chart(
            title="Ratio guard",
            description="Largest drift between learner and rollouts under the same weights, in standard deviations. "
            "It measures rounding: about 1e-6 in float32, and the run ends above 1e-4.",
            queries=[Query(expr='tafs_guard_drift{run="$run"}', legend="drift")],
            unit="sci",
            limits=((1e-4, WARNING),),
            log=True,
            width=24,
            height=6,
        ),
    ),
}

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
