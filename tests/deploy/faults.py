"""Faults as they look in the metrics, and which alerts they may raise: the table behind the runbook's.

Time is in minutes; a run named "r" trains from minute 0 on, one update a minute, until a fault strikes at minute 30.
"""

from dataclasses import dataclass

START, LAST = 30, 120
TRAINING = 'tafs_run_state{state="training"}'


def steady(value: float) -> str:
    return f"{value}x{LAST}"


def rising(step: float, start: float = 0) -> str:
    return f"{start}+{step}x{LAST}"


def then(before: str, after: str) -> str:
    """`before` until the fault strikes, `after` from it on."""
    return f"{before}x{START - 1} {after}x{LAST - START}"


NOT_SCORED = " ".join(["NaN"] * (LAST + 1))
HEALTHY = {
    'up{job="tafs"}': steady(1),
    "tafs_redis_up": steady(1),
    "tafs_redis_command_duration_seconds": steady(0.002),
    "tafs_redis_memory_used_bytes": steady(1e9),
    "tafs_redis_memory_limit_bytes": steady(4e9),
    'tafs_run_info{began="1"}': steady(1),
    TRAINING: steady(1),
    'tafs_run_state{state="evaluating"}': steady(0),
    "tafs_run_start_timestamp_seconds": steady(0),
    "tafs_last_update_timestamp_seconds": rising(60),
    "tafs_update_duration_seconds": steady(60),
    "tafs_checkpoint_last_success_timestamp_seconds": rising(60),
    'tafs_phase_seconds_total{phase="wait"}': rising(40),
    'tafs_phase_seconds_total{phase="forward_backward"}': rising(20),
    'tafs_queue_oldest_entry_age_seconds{stage="tickets"}': steady(20),
    'tafs_queue_oldest_entry_age_seconds{stage="groups"}': steady(50),
    'tafs_queue_oldest_entry_age_seconds{stage="scored"}': steady(100),
    "tafs_groups_dispatched_total": rising(10),
    'tafs_groups_failed_total{stage="tickets"}': steady(0),
    'tafs_groups_failed_total{stage="groups"}': steady(0),
    'tafs_groups_evicted_total{reason="other"}': steady(0),
    "tafs_groups_dead_lettered_total": steady(0),
    "tafs_weights_version": rising(1),
    "tafs_max_staleness_updates": steady(1),
    "tafs_weights_digest_conflicts": steady(0),
    'tafs_worker_weights_version{role="rollout",replica="0"}': rising(1),
    'tafs_worker_weights_version{role="rollout",replica="1"}': rising(1),
    'tafs_worker_groups_total{role="rollout",replica="0"}': rising(5),
    'tafs_worker_groups_total{role="rollout",replica="1"}': rising(5),
    'tafs_worker_deaths_total{role="rollout",replica="0"}': steady(0),
    'tafs_worker_deaths_total{role="rollout",replica="1"}': steady(0),
    **{
        f'tafs_worker_deaths_forgiven_total{{role="{role}",replica="0"}}': steady(0)
        for role in ("rollout", "reward", "learner")
    },
    'tafs_worker_state{role="rollout",replica="0",state="healthy"}': steady(1),
    "tafs_nonfinite_updates_total": steady(0),
    "tafs_dropped_pairs_ratio": steady(0.01),
    'tafs_look_hacked{reward="judge_exact_match"}': steady(0),
    'tafs_reward_value{reward="ocr",step="1",stat="mean"}': rising(0.001, 0.6),
    'tafs_reward_value{reward="ocr",step="1",stat="spread"}': steady(0.4),
    'tafs_reward_value{reward="ocr",step="0",stat="mean"}': NOT_SCORED,
    'tafs_reward_value{reward="ocr",step="0",stat="spread"}': NOT_SCORED,
}
"""Every series that an alert reads."""
STOPS = {  # no update any more
    "tafs_last_update_timestamp_seconds": f"0+60x{START} {START * 60}x{LAST - START}",
    'tafs_phase_seconds_total{phase="wait"}': f"0+40x{START} {START * 40}x{LAST - START}",
    'tafs_phase_seconds_total{phase="forward_backward"}': f"0+20x{START} {START * 20}x{LAST - START}",
    "tafs_groups_dispatched_total": f"0+10x{START} {START * 10}x{LAST - START}",
}


def absent(*prefixes: str) -> dict[str, str]:
    """The healthy series of those prefixes, until the fault strikes."""
    found = {name: values for name, values in HEALTHY.items() if name.startswith(prefixes) and values != NOT_SCORED}
    return {name: f"{values.rpartition('x')[0]}x{START - 1} stale" for name, values in found.items()}


SERVER_SILENT = absent("tafs_queue", "tafs_groups", "tafs_redis_memory")


@dataclass(frozen=True)
class Fault:
    """`series` differ from HEALTHY; `root` and `consequences` fire at minute `at`, and nothing else."""

    series: dict[str, str]
    root: str | None
    consequences: frozenset[str] = frozenset()
    at: int = 45
    glimpse: bool = False  # no root, and asked at that minute alone: else nothing may fire at any time


FAULTS = {
    "the process of the run is killed": Fault(
        {'up{job="tafs"}': then("1", "0"), **absent("tafs")},
        root="ExporterAbsent",
    ),
    "the server does not answer": Fault(
        {"tafs_redis_up": then("1", "0"), **SERVER_SILENT},
        root="RedisDown",
        at=32,
    ),
    "the server does not answer for long": Fault(
        {"tafs_redis_up": then("1", "0"), **STOPS, **SERVER_SILENT},
        root="RedisDown",
        consequences=frozenset({"RunStalled"}),
    ),
    "the server, or the way to it, is slow": Fault(
        {"tafs_redis_command_duration_seconds": then("0.002", "1.5")}, root="RedisSlow"
    ),
    "the server is full": Fault({"tafs_redis_memory_used_bytes": then("1e9", "3.9e9")}, root="RedisFull"),
    "the server is full, and not of this run": Fault(
        {"tafs_redis_memory_used_bytes": then("1e9", "4e9"), **STOPS},
        root="RedisFull",
        consequences=frozenset({"RunStalled"}),
    ),
    "the learner hangs": Fault(STOPS, root="RunStalled", at=36),
    "one of several reward workers hangs with a group in hand": Fault(
        {'tafs_queue_oldest_entry_age_seconds{stage="groups"}': f"50x{START} 60+60x{LAST - START}"},
        root="PendingStuck",
    ),
    "all rollout workers hang": Fault(
        {'tafs_queue_oldest_entry_age_seconds{stage="tickets"}': f"20x{START} 60+60x{LAST - START}", **STOPS},
        root="RunStalled",
        consequences=frozenset({"PendingStuck"}),
    ),
    "a scorer hangs in all reward workers": Fault(
        {'tafs_queue_oldest_entry_age_seconds{stage="groups"}': f"20x{START} 60+60x{LAST - START}", **STOPS},
        root="RunStalled",
        consequences=frozenset({"PendingStuck"}),
    ),
    "too few rollout workers": Fault(
        {'tafs_phase_seconds_total{phase="wait"}': rising(580)}, root="QueueStarved", at=60
    ),
    "rollouts fail": Fault(
        {'tafs_groups_failed_total{stage="tickets"}': f"0x{START} 0+2x{LAST - START}"}, root="RolloutFailing"
    ),
    "a reward raises, or gives what is no number, now and then": Fault(
        {'tafs_groups_failed_total{stage="groups"}': f"0x{START} 0+2x{LAST - START}"}, root="RewardFailing"
    ),
    "a reward service is down": Fault(
        {
            'tafs_groups_failed_total{stage="groups"}': f"0x{START} 0+9x{LAST - START}",
            "tafs_groups_dead_lettered_total": f"0x{START} 0+3x{LAST - START}",
        },
        root="RewardFailing",
        consequences=frozenset({"DeadLettersGrowing"}),
    ),
    "one prompt that no reward can score": Fault(
        {
            'tafs_groups_failed_total{stage="groups"}': f"0x{START} 1 2 3x{LAST - START}",
            "tafs_groups_dead_lettered_total": f"0x{START} 0 0 1x{LAST - START}",
        },
        root="DeadLettersGrowing",
        at=38,
    ),
    "groups are drawn in vain": Fault(
        {'tafs_groups_evicted_total{reason="lineage"}': f"0x{START} 0+4x{LAST - START}"}, root="StaleEvictionsHigh"
    ),
    "the policy is lost": Fault(
        {'tafs_reward_value{reward="ocr",step="1",stat="mean"}': f"0.6+0.001x{START} 0.1x{LAST - START}"},
        root="RewardCollapsed",
    ),
    "the reward is hacked": Fault(
        {'tafs_look_hacked{reward="judge_exact_match"}': then("0", "1")}, root="RewardHacked"
    ),
    "gradients overflow": Fault({"tafs_nonfinite_updates_total": f"0x{START} 0+1x{LAST - START}"}, root="NonFinite"),
    "the policy runs away from its rollouts": Fault(
        {"tafs_dropped_pairs_ratio": then("0.01", "0.9")}, root="PairsDropped", at=50
    ),
    "checkpoints are too rare": Fault(
        {"tafs_checkpoint_last_success_timestamp_seconds": f"0+60x{START} 1800x{LAST - START}"},
        root="CheckpointOld",
        at=100,
    ),
    "no checkpoint was ever written": Fault(
        {"tafs_checkpoint_last_success_timestamp_seconds": "_x120"}, root="CheckpointOld", at=70
    ),
    "workers are killed again and again": Fault(
        {
            'tafs_worker_deaths_total{role="rollout",replica="0"}': f"0x{START} 1+1x{LAST - START}",
            'tafs_worker_deaths_total{role="rollout",replica="1"}': f"0x{START} 1+1x{LAST - START}",
        },
        root="WorkerCrashLoop",
        at=40,
    ),
    "the learner is killed again and again": Fault(
        {
            'tafs_worker_deaths_total{role="learner",replica="0"}': f"0x{START} 0+1x{LAST - START}",
            **STOPS,
        },
        root="WorkerCrashLoop",
        consequences=frozenset({"RunStalled"}),
    ),
    "a node is gone with its workers, and none takes its place": Fault(
        {
            'tafs_worker_state{role="rollout",replica="0",state="healthy"}': f"1x{START} stale",
            'tafs_worker_state{role="rollout",replica="0",state="failed"}': f"_x{START} 1x{LAST - START}",
            'tafs_groups_evicted_total{reason="worker lost"}': f"0x{START} 0+4x{LAST - START}",
        },
        root="WorkerCrashLoop",
        consequences=frozenset({"StaleEvictionsHigh"}),
        at=50,
    ),
    "a worker has spent its restarts": Fault(
        {'tafs_worker_state{role="reward",replica="1",state="failed"}': f"_x{START} 1x{LAST - START}"},
        root="WorkerCrashLoop",
    ),
    "a rollout worker does not see new weights": Fault(
        {'tafs_worker_weights_version{role="rollout",replica="1"}': f"0+1x{START} {START}x{LAST - START}"},
        root="WeightsLagging",
    ),
    "two workers hold different weights under one version": Fault(
        {"tafs_weights_digest_conflicts": then("0", "1")}, root="WeightsDigestMismatch"
    ),
    "weights arrive damaged": Fault(
        {'tafs_groups_evicted_total{reason="WeightsCorrupt"}': f"_x{START} 1x{LAST - START}"},
        root="WeightsDigestMismatch",
        at=35,
    ),
}
"""By what happens."""
HARMLESS = {
    "nothing": Fault({}, root=None, at=110),
    "one scrape that finds no server": Fault({"tafs_redis_up": f"1x{START} 0 1x{LAST - START}"}, root=None),
    "one scrape that finds nobody": Fault({'up{job="tafs"}': f"1x{START} 0 1x{LAST - START}"}, root=None),
    "one slow answer": Fault(
        {"tafs_redis_command_duration_seconds": f"0.002x{START} 2 0.002x{LAST - START}"}, root=None, at=31
    ),
    "an update of twice the usual time": Fault(
        {"tafs_last_update_timestamp_seconds": f"0+60x{START} 1800 1800 1980+60x{LAST - START}"}, root=None, at=32
    ),
    "the final evaluation, with a queue that stands still": Fault(
        {
            TRAINING: then("1", "0"),
            'tafs_run_state{state="evaluating"}': then("0", "1"),
            'tafs_queue_oldest_entry_age_seconds{stage="tickets"}': f"20x{START} 60+60x{LAST - START}",
            **STOPS,
        },
        root=None,
        at=110,
    ),
    "a backlog that is worked off": Fault(
        {'tafs_queue_oldest_entry_age_seconds{stage="scored"}': steady(500)}, root=None
    ),
    "a learner that waits two thirds of its time": Fault({}, root=None, at=60),
    "two attempts that failed": Fault(
        {
            'tafs_groups_failed_total{stage="tickets"}': then("0", "1"),
            'tafs_groups_failed_total{stage="groups"}': then("0", "1"),
        },
        root=None,
        at=33,
    ),
    "a worker without tickets that keeps old weights": Fault(
        {
            'tafs_worker_weights_version{role="rollout",replica="1"}': f"0+1x{START} {START}x{LAST - START}",
            'tafs_worker_groups_total{role="rollout",replica="1"}': f"0+5x{START} {5 * START}x{LAST - START}",
        },
        root=None,
        at=60,
    ),
    "a worker two versions behind": Fault(
        {'tafs_worker_weights_version{role="rollout",replica="1"}': f"_ _ 0+1x{LAST - 2}"}, root=None, at=60
    ),
    "weights that arrived damaged once, long ago": Fault(
        {'tafs_groups_evicted_total{reason="WeightsCorrupt"}': f"_x{START} 1x{LAST - START}"},
        root=None,
        at=60,
        glimpse=True,
    ),
    "a reward that dips": Fault(
        {'tafs_reward_value{reward="ocr",step="1",stat="mean"}': f"0.6+0.001x{START} 0.4x{LAST - START}"}, root=None
    ),
    "one gradient that was not finite": Fault({"tafs_nonfinite_updates_total": then("0", "1")}, root=None, at=32),
    "a tenth of the pairs dropped": Fault({"tafs_dropped_pairs_ratio": steady(0.1)}, root=None),
    "a run that is begun anew under its name": Fault(
        {
            'tafs_run_info{began="1"}': f"1x{START} stale",
            'tafs_run_info{began="2"}': f"_x{START + 6} 1x{LAST - START - 6}",
            'tafs_reward_value{reward="ocr",step="1",stat="mean"}': f"0.9x{START} stale _x6 0.1x{LAST - START - 7}",
        },
        root=None,
    ),
    "a checkpoint every half hour": Fault(
        {"tafs_checkpoint_last_success_timestamp_seconds": "0x29 1800x30 3600x30 5400x30"}, root=None, at=89
    ),
}
MENDED = {
    "a rollout worker is killed, idle or with a group in hand": Fault(
        {
            'tafs_worker_deaths_total{role="rollout",replica="0"}': then("0", "1"),
            'tafs_worker_state{role="rollout",replica="0",state="healthy"}': f"1x{START} _ 1x{LAST - START}",
            'tafs_groups_evicted_total{reason="worker lost"}': then("0", "2"),
        },
        root=None,
    ),
    "a reward worker is killed while it scores": Fault(
        {
            'tafs_worker_deaths_total{role="reward",replica="0"}': then("0", "1"),
            'tafs_groups_evicted_total{reason="worker lost"}': then("0", "2"),
        },
        root=None,
    ),
    "the learner is killed, anywhere between two updates": Fault(
        {
            'tafs_worker_deaths_total{role="learner",replica="0"}': then("0", "1"),
            'tafs_groups_evicted_total{reason="lineage"}': then("0", "8"),
            "tafs_last_update_timestamp_seconds": f"0+60x{START} 1800 1800 1980+60x{LAST - START}",
        },
        root=None,
    ),
    "a node is gone with four workers, whose places others take": Fault(
        {
            'tafs_worker_deaths_total{role="rollout",replica="0"}': then("0", "4"),
            'tafs_worker_deaths_forgiven_total{role="rollout",replica="0"}': then("0", "4"),
            'tafs_groups_evicted_total{reason="worker lost"}': then("0", "8"),
        },
        root=None,
    ),
    "a worker is stopped for a while, and continued": Fault(
        {
            'tafs_worker_deaths_total{role="rollout",replica="0"}': then("0", "1"),
            'tafs_worker_state{role="rollout",replica="0",state="suspect"}': f"_x{START} 1 stale",
            "tafs_groups_duplicated_total": then("0", "1"),
        },
        root=None,
    ),
    "a scorer hangs once": Fault(
        {
            'tafs_queue_oldest_entry_age_seconds{stage="groups"}': f"50x{START} 60+60x4 50x{LAST - START}",
            'tafs_worker_deaths_total{role="reward",replica="0"}': then("0", "1"),
        },
        root=None,
    ),
    "the server is killed and started again": Fault(
        {
            "tafs_redis_up": f"1x{START} 0 1x{LAST - START}",
            "tafs_groups_dispatched_total": f"0+10x{START} 0+10x{LAST - START}",
        },
        root=None,
    ),
    "the server, or the way to it, stands still for half a minute": Fault(
        {
            "tafs_redis_up": f"1x{START} 0 1x{LAST - START}",
            "tafs_last_update_timestamp_seconds": f"0+60x{START} 1800 1860+60x{LAST - START}",
        },
        root=None,
    ),
    "the server forgets everything": Fault(
        {
            "tafs_groups_dispatched_total": f"0+10x{START} 0+10x{LAST - START}",
            'tafs_groups_failed_total{stage="groups"}': f"5x{START} 0x{LAST - START}",
        },
        root=None,
    ),
    "the process of the run is killed, and started again within a minute": Fault(
        {
            'up{job="tafs"}': f"1x{START} 0 1x{LAST - START}",
            "tafs_updates_total": f"0+1x{START} 0+1x{LAST - START}",
            "tafs_last_update_timestamp_seconds": f"0+60x{START} _ _ 1980+60x{LAST - START}",
            "tafs_checkpoint_last_success_timestamp_seconds": f"0+60x{START} stale _ 1980+60x{LAST - START}",
            "tafs_run_start_timestamp_seconds": f"0x{START} 1860x{LAST - START}",
        },
        root=None,
    ),
    "a checkpoint is torn, or its bits are flipped": Fault({}, root=None),
    "the run is asked to stop, once or twice, during a checkpoint or not": Fault(
        {**absent("up", "tafs")}, root=None, at=45
    ),
}
"""Faults that a run mends by itself: they raise nothing. They stand in the runbook, too."""
HARMLESS |= MENDED
"""What must raise nothing."""
