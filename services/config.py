"""The run file: five blocks (model, sampling, rewards, learning, fleet) and what is evaluated.

Everything is validated before anything starts, without torch. An unknown key names its path and the nearest valid
one; a setting without effect is an error. Relative paths are relative to the folder that `tafs` is called in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from learner.advantage import steps_read
from rollout.kernel import trained_transitions
from rollout.process import first_image_after, num_images, process_of
from rollout.types import Behaviour
from services.block import Block, Positive, Rate
from services.judge_config import JudgeConfig, check_judges
from services.learning_config import LearningConfig
from services.model_config import ModelConfig
from services.redis_config import RedisUsersConfig, without_password
from services.reward_config import RewardConfig, check_rewards, steps_of
from services.sampling_config import SamplingConfig


class RoleConfig(Block):
    """The workers of one role."""

    workers: Positive = 1
    """How many."""
    cpus: Rate = 1.0
    """Logical CPUs of each; a worker computes with max(1, floor(cpus)) threads."""
    gpus: Annotated[float, Field(ge=0.0)] = 0.0
    """GPUs of each; fractions share one."""
    memory_gib: Annotated[float, Field(ge=0.0)] = 0.0
    """Host memory that is reserved for each, in GiB; 0 = none is, and workers may crowd a node."""
    resources: dict[str, Annotated[float, Field(ge=0.0)]] = Field(default_factory=dict)
    """Custom resources of each, by the names that nodes were started with, e.g. {spot: 1}: where the role may run. 0
    takes one back that a `base` file asks for."""

    @model_validator(mode="after")
    def _resources_are_rays(self) -> Self:
        if self.gpus > 1.0 and self.gpus != int(self.gpus):
            raise ValueError(f"more than one GPU are whole ones, found gpus: {self.gpus:g}")
        if known := sorted({"CPU", "GPU", "memory"} & self.resources.keys()):
            raise ValueError(f"{known[0]} is no custom resource; use cpus, gpus and memory_gib")
        return self


class RewardRoleConfig(RoleConfig):
    """The reward workers."""

    groups_at_once: Positive = 2
    """Groups that one worker has in hand, so that a slow reward of one does not keep the fast ones from the next. More
    of them fill larger calls, to a judge on another machine say, and keep more images in memory."""


class SupervisionConfig(Block):
    """How worker processes are watched and replaced; docs/operations.md tells what follows from it."""

    heartbeat_s: Rate = 1.0
    """Seconds between a worker's heartbeats."""
    suspect_after_s: Rate = 5.0
    """Seconds without a heartbeat after which a worker is suspect; it goes on working."""
    dead_after_s: Rate = 20.0
    """Seconds without a heartbeat after which it is killed and replaced. Time in which the server did not answer does
    not count. A process that ends is found at once, whatever stands here."""
    start_timeout_s: Rate = 300.0
    """Seconds from a worker's start to its readiness: imports, the model, the newest weights."""
    hang_timeout_s: Rate = 300.0
    """Seconds in one piece of work (drawing or scoring one group) after which a worker hangs, though its heart may
    beat: its stacks go into the run folder and it is replaced. The learner's bound is fleet.stall_timeout_s."""
    drain_timeout_s: Rate = 30.0
    """Seconds that a stop request leaves for the groups in flight; then the checkpoint is written without them."""
    restarts: Annotated[int, Field(ge=0)] = 5
    """How often one worker is restarted within restart_window_s; 0 = never. One more death, and it is given up. What
    dies with its node is not counted."""
    restart_window_s: Rate = 600.0
    """Seconds after which a restart is forgotten."""
    backoff_s: Rate = 0.5
    """Pause before the first restart; doubles with each within the window, with jitter."""
    backoff_max_s: Rate = 30.0
    """Longest pause."""
    min_healthy_rollout: Positive = 1
    """The run ends if fewer rollout workers than this are healthy for longer than min_healthy_grace_s."""
    min_healthy_reward: Positive = 1
    """The same for reward workers."""
    min_healthy_grace_s: Rate = 300.0
    """How long a role may be below its minimum, starts left out."""

    @property
    def lease_s(self) -> float:
        """Seconds that a claim lives without renewal: longer than dead_after_s, so that it is the supervisor who
        notices a dead worker first, and gives back at once what that one had claimed.
        """
        return 1.5 * self.dead_after_s

    @model_validator(mode="after")
    def _patience_rises(self) -> Self:
        if not self.heartbeat_s < self.suspect_after_s < self.dead_after_s:
            raise ValueError(
                f"expected heartbeat_s < suspect_after_s < dead_after_s, found {self.heartbeat_s:g}, "
                f"{self.suspect_after_s:g}, {self.dead_after_s:g}"
            )
        return self


class ScalingConfig(Block):
    """Fleets that grow and shrink with their work, between two bounds each; docs/operations.md says by which rule."""

    rollout: tuple[Positive, Positive] | None = None
    """[fewest, most] rollout workers; null = as many as fleet.rollout.workers, or `tafs scale`, says."""
    reward: tuple[Positive, Positive] | None = None
    """The same for reward workers."""
    every_s: Rate = 30.0
    """Seconds that are looked at before each decision."""

    @model_validator(mode="after")
    def _bounds_rise(self) -> Self:
        for role, bounds in (("rollout", self.rollout), ("reward", self.reward)):
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"scaling.{role}: expected [fewest, most], found {list(bounds)}")
        return self


class RecordConfig(Block):
    """What the learner consumes, kept in the run folder for `tafs replay`; docs/operations.md."""

    updates: Positive = 50
    """The newest so many updates are kept; with as many as the run has, a replay can begin at its start."""
    max_gib: Rate = 8.0
    """Their files' GiB at most; the newest update stays whatever its size."""


class FleetConfig(Block):
    """Where and how the run is executed."""

    max_staleness: Annotated[int, Field(ge=0)] = 1
    """How many updates a group's weights may lie behind; 0 = synchronous, and then deterministic."""
    rollout: RoleConfig = RoleConfig()
    """Workers that draw groups."""
    reward: RewardRoleConfig = RewardRoleConfig()
    """Workers that score them."""
    learner: RoleConfig = RoleConfig()
    """Ranks that train; `workers` is their number."""
    layout: Literal["separate", "colocated"] = "separate"
    """separate: every worker has its own place; colocated: learner rank i and rollout worker i share a node, and where
    their gpus are fractions, one GPU."""
    room_timeout_s: Annotated[float, Field(ge=0.0)] = 0.0
    """How long to wait for a cluster that is still growing (an autoscaler's) to have room for all workers, before the
    run ends with exit code 75; 0 = what is there now must do, else exit code 64."""
    judges: tuple[JudgeConfig, ...] = ()
    """Model servers for VLM judges that the run starts and stops; those that run elsewhere are named by their URL."""
    merge_adapter: bool = True
    """Rollouts fold the adapter into the weights: faster, float32 only; the ratio guard watches the rounding."""
    redis: str | None = None
    """URL of a Redis or Valkey server (7.0 or later); null = a private one, started here for the run. Take one with a
    password from the environment: "${TAFS_REDIS_URL:-}"; no file that a run writes holds the password."""
    redis_users: RedisUsersConfig = RedisUsersConfig()
    """Users of the server with fewer rights, by role; without them all roles use the one of `redis`."""
    blobs: str = "redis://"
    """Where payloads travel: redis:// beside the queue, ray:// in the cluster's object store, or an fsspec URL of a
    shared folder."""
    max_groups: Positive | None = None
    """Groups in flight at most, and at least learning.groups_per_update; null = as many as max_staleness allows."""
    max_payload_bytes: Positive | None = None
    """Bytes of payloads in flight at most; new groups wait for room, and one update's groups must fit. null = no
    bound."""
    checkpoints: str | None = None
    """An fsspec URL that every start reaches, such as s3://bucket/tafs: checkpoints are at URL/<name of the run>, and a
    start from anywhere goes on from them. null = in the run folder."""
    record: RecordConfig | None = None
    """What the learner consumes, kept for `tafs replay`; null = nothing is."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Prometheus endpoint of the run; 0 = any free port."""
    metrics_host: str = "127.0.0.1"
    """Interface of the endpoint."""
    stall_timeout_s: Rate = 300.0
    """No progress for this long ends the run with stacks of all workers and exit code 75."""
    log: Literal["text", "json"] = "text"
    """The run's output: text for people, json for collectors, one object per line with run, role, replica, version and
    gid (the group)."""
    supervision: SupervisionConfig = SupervisionConfig()
    """Heartbeats, restarts and their budget."""
    scaling: ScalingConfig | None = None
    """Automatic scaling; null = none."""

    @model_validator(mode="after")
    def _enough_workers(self) -> Self:
        watch = self.supervision
        for role, spec, least in (
            ("rollout", self.rollout, watch.min_healthy_rollout),
            ("reward", self.reward, watch.min_healthy_reward),
        ):
            if spec.workers < least:
                raise ValueError(f"supervision.min_healthy_{role} is {least}, but {role} starts with {spec.workers}")
        return self

    @field_validator("redis")
    @classmethod
    def _empty_is_none(cls, redis: str | None) -> str | None:
        """`${TAFS_REDIS_URL:-}` of an environment without one."""
        return redis or None

    @field_validator("checkpoints")
    @classmethod
    def _outlives_the_process(cls, url: str | None) -> str | None:
        if url is not None and ("://" not in url or url.startswith("memory:")):
            raise ValueError(f"expected a URL that outlives a process, such as s3://bucket/folder, found {url!r}")
        return url

    @field_serializer("redis")
    def _without_its_password(self, redis: str | None) -> str | None:
        """As it is written into run folders and reports."""
        return None if redis is None else without_password(redis)

    @model_validator(mode="after")
    def _users_have_a_server(self) -> Self:
        users = [name for name, url in self.redis_users if url is not None]
        if users and self.redis is None:
            raise ValueError(
                f"redis_users.{users[0]} names a user of a server of yours; expected its URL for the driver in "
                "`redis`, found none"
            )
        return self

    @model_validator(mode="after")
    def _pairs_can_be_made(self) -> Self:
        if self.layout == "colocated" and self.learner.workers != self.rollout.workers:
            raise ValueError(
                f"layout colocated pairs learner ranks with rollout workers: expected as many of each, found "
                f"{self.learner.workers} and {self.rollout.workers}"
            )
        return self


class WatchConfig(Block):
    """A held-out panel that looks at the run while it trains: is the reward pleased, or are the images better?"""

    every: Positive = 10
    """Updates between looks; the first look is before training."""
    images: Positive = 128
    """Per look, 4 for each of as many of the evaluation's prompts."""
    panel: Annotated[tuple[RewardConfig, ...], Field(min_length=1)] = (RewardConfig(use="judge_exact_match"),)
    """Rewards that nothing is trained on; the default is the held-out reader's. Only `use`, `name` and `options` count.
    They and the trained rewards are built in the learner, too."""
    fall: Rate = 0.1
    """A panel score so far below its best look, in widths of its range, is divergence, if the paired difference is
    more than two standard errors and a trained reward rose meanwhile."""
    looks: Positive = 2
    """In so many looks in a row, for an alarm."""
    stop: bool = False
    """End the run at an alarm; what it leaves behind are the weights of the panel's best look."""

    @model_validator(mode="after")
    def _panel_is_held_out(self) -> Self:
        titles = [reward.title for reward in self.panel]
        if len(set(titles)) != len(titles):
            raise ValueError(f"panel: expected each reward once, found {titles}; give each its own name")
        for reward in self.panel:
            set_here = reward.model_fields_set - {"use", "name", "options"}
            if set_here:
                raise ValueError(
                    f"panel: {', '.join(sorted(set_here))} has no effect on {reward.title}, which is not trained"
                )
        return self


class EvaluationConfig(Block):
    """What is measured before and after, on prompts that are not trained on, with the same seeds."""

    prompts: Path
    """JSON lines like `sampling.prompts`; metadata key `target` holds the text to read."""
    images: Positive = 1080
    """Per figure, spread evenly over the prompts. 100 images carry a standard error of 0.05."""
    strip_prompts: Positive = 6
    """Prompts shown in image strips."""
    strips_every: Positive = 25
    """Updates between image strips; the first and the last always have one."""
    watch: WatchConfig | None = None
    """A held-out panel during training; null = none."""


class RunConfig(Block):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the run folder and its keys in Redis; the same name goes on where it stopped."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of all noise, the order of prompts and the adapter's start."""
    runs: Path = Path("runs")
    """Parent of the run folder."""
    model: ModelConfig
    sampling: SamplingConfig
    rewards: Annotated[tuple[RewardConfig, ...], Field(min_length=1)]
    learning: LearningConfig
    fleet: FleetConfig = FleetConfig()
    evaluation: EvaluationConfig | None = None
    """null = no figures and no strips."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        watch = None if self.evaluation is None else self.evaluation.watch
        for held_out in () if watch is None else watch.panel:
            if any((held_out.use, held_out.options) == (entry.use, entry.options) for entry in self.rewards):
                raise ValueError(
                    f"evaluation.watch.panel: expected rewards that are not trained, found {held_out.title}"
                )
        check_judges(self.fleet.judges, (*self.rewards, *(() if watch is None else watch.panel)))
        if self.learning.kl_weight > 0.0 and self.model.lora is None:
            raise ValueError("learning.kl_weight > 0 needs model.lora: without an adapter there is no reference")
        if self.fleet.merge_adapter and (self.model.lora is None or self.model.dtype != "float32"):
            raise ValueError("fleet.merge_adapter needs model.lora and model.dtype float32; set it to false")
        if self.fleet.max_groups is not None and self.fleet.max_groups < self.learning.groups_per_update:
            raise ValueError(
                f"fleet.max_groups: expected at least learning.groups_per_update, {self.learning.groups_per_update}, "
                f"found {self.fleet.max_groups}"
            )
        if self.learning.nft is not None and (self.sampling.last_step == "drop" or self.sampling.branching):
            raise ValueError(
                "learning.nft learns from stored final images: expected sampling.last_step floor or x0 and no "
                f"sampling.branching, found {self.sampling.last_step} and {list(self.sampling.branching)}"
            )
        if self.sampling.last_step == "x0" and self.learning.advantage.mode == "same_step":
            raise ValueError("learning.advantage.mode same_step is no control with sampling.last_step x0; remove one")
        for behaviour in self.sampling.behaviours():
            images = num_images(process_of(behaviour))
            check_rewards(self.rewards, self.learning.advantage.mode, self._steps_read(behaviour), images)
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.runs / self.name

    def reward_steps(self, reward: RewardConfig, behaviour: Behaviour) -> tuple[int, ...]:
        """The steps of a group whose images a reward scores."""
        return steps_of(reward, self._steps_read(behaviour), num_images(process_of(behaviour)))

    def steps_scored(self, behaviour: Behaviour) -> tuple[int, ...]:
        """The steps of a group whose images some reward scores; the others are not even decoded."""
        return tuple(sorted({step for reward in self.rewards for step in self.reward_steps(reward, behaviour)}))

    def _steps_read(self, behaviour: Behaviour) -> tuple[int, ...]:
        """The steps of a group whose rewards the advantage reads."""
        process = process_of(behaviour)
        credit = self.learning.advantage.credit()
        return steps_read(credit, num_images(process), trained_transitions(process), first_image_after(process))
