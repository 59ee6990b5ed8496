"""Rewards, updates, and how far the policy moves."""

from __future__ import annotations

from deploy.observability.boards.shared import REWARDS, Rows
from deploy.observability.panels import BAD, WARNING, Chart, Query

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
        Chart(
            title="Weights of the rewards",
            description="Share of each reward in the sum of advantages; it moves where the run file gives weights by "
            "update.",
            queries=[Query(expr='tafs_reward_weight{run="$run"}', legend="{{reward}}")],
            unit="none",
            width=12,
        ),
        Chart(
            title="Images that pass a gate",
            description="Share of images, by step, at which a gated reward counts. At 0 it teaches nothing.",
            queries=[Query(expr='tafs_reward_gate_passed_ratio{run="$run"}', legend="{{reward}} step {{step}}")],
            unit="percentunit",
            lowest=0,
            width=12,
        ),
    ),
    "Held out": (
        Chart(
            title="Held-out panel",
            description="Mean scores of the last look at the same prompts and seeds, by rewards that are trained and "
            "by those that are not. Looks are evaluation.watch.every updates apart.",
            queries=[Query(expr='tafs_look_score{run="$run"}', legend="{{reward}} ({{kind}})")],
            unit="none",
            alerts=("RewardHacked",),
        ),
        Chart(
            title="Fall from the best look",
            description="Of each held-out reward, in widths of its range. Beyond evaluation.watch.fall it diverges.",
            queries=[
                Query(expr='tafs_look_fall{run="$run"}', legend="{{reward}}"),
                Query(expr='tafs_look_hacked{run="$run"}', legend="{{reward}} hacked"),
            ],
            unit="none",
            lowest=0,
        ),
        Chart(
            title="What the pictures are like",
            description="Diversity within a prompt, distance from the model before training, saturation, sharpness.",
            queries=[Query(expr='tafs_look_statistic{run="$run"}', legend="{{statistic}}")],
            unit="none",
            lowest=0,
        ),
        Chart(
            title="Last look",
            description="The update that it was made after.",
            queries=[Query(expr='tafs_look_update{run="$run"}', legend="update")],
            unit="none",
            lowest=0,
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
            title="Temperature",
            description="Of the rollouts' noise, by step. It moves where a schedule or the controller moves it.",
            queries=[Query(expr='tafs_temperature{run="$run"}', legend="step {{step}}")],
            unit="none",
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
