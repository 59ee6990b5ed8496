"""The arms of the study: run-file settings beside those of the base run file, and where each searches."""

from __future__ import annotations

from dataclasses import dataclass, field

TERMINAL = "learning.advantage={mode: terminal}"
FLOW_SDE = ("sampling.kernel=flow_sde", "learning.step_weight=none", TERMINAL)
FLOOR = ("sampling.last_step=floor", "sampling.last_std=0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One method. The search tries every rate with every temperature."""

    overrides: tuple[str, ...] = ()
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    temperatures: tuple[float, ...] = (0.7, 1.0)
    staleness: int = 0
    note: str = ""
    like: str = ""  # the arm whose search chose this one's rate and temperature
    fixed: tuple[str, ...] = field(default=())  # settings that stand in the place of the searched temperature


ARMS: dict[str, Arm] = {
    "flow_sde_terminal": Arm(
        overrides=FLOW_SDE, temperatures=(0.7, 0.9), note="Flow-GRPO: the baseline of the headline"
    ),
    "flow_sde_step_aware": Arm(
        overrides=FLOW_SDE[:1], temperatures=(0.7, 0.9), note="Flow-SDE with our credit and weights"
    ),
    "step_aware": Arm(note="the default: annealed kernel, gain, equal_v"),
    "over_noised": Arm(temperatures=(1.25, 1.5), note="the default with more noise than the flow has"),
    "terminal": Arm(overrides=(TERMINAL,), note="our kernel and weights, terminal advantages"),
    "policy_gradient": Arm(
        overrides=(TERMINAL, "learning.step_weight=none"), note="our kernel: the final reward's gradient as it is"
    ),
    "control_variate": Arm(
        overrides=("learning.advantage={mode: control_variate}",), note="the final image's reward, baseline regressed"
    ),
    "mix": Arm(overrides=("learning.advantage={mode: gain, terminal_share: 0.5}",), note="half and half"),
    "annealed": Arm(
        fixed=("sampling.temperature={annealing: linear, start: 1.0, end: 0.5}",), note="temperature over steps"
    ),
    "cooling": Arm(
        fixed=("sampling.temperature={start: 1.0, over_updates: {to: 0.5, updates: 100}}",), note="over updates"
    ),
    "adaptive": Arm(fixed=("sampling.temperature={start: 0.8, adaptive: {target: 0.35}}",), note="controller"),
    "branching": Arm(overrides=("sampling.branching=[4, 1, 3]",), note="4 states, 3 continuations after call 1"),
    "dance_sde": Arm(
        overrides=("sampling.kernel=dance_sde", "learning.step_weight=none", TERMINAL), temperatures=(0.3, 0.6)
    ),
    "flow_cps": Arm(overrides=("sampling.kernel=flow_cps", "learning.step_weight=variance", TERMINAL)),
    "guard": Arm(
        overrides=(*FLOW_SDE[:1], TERMINAL, "learning.ratio=guard", "learning.clip_form=constant",
                   "learning.step_weight=inverse_time"),
        temperatures=(0.7, 0.9),
        note="GRPO-Guard",
    ),
    "kl_mask": Arm(overrides=("learning.optimizer_steps=2", "learning.kl_mask=1e-4"), note="exact-KL mask, 2 steps"),
    "floor": Arm(overrides=FLOOR, note="the last call is trained"),
    "x0_space": Arm(overrides=("sampling.last_step=x0", "sampling.last_std=0.3"), note="actions are clean images"),
    "nft": Arm(overrides=(*FLOOR, TERMINAL, "learning.nft={}"), note="DiffusionNFT-style"),
    "random_steps": Arm(
        overrides=("sampling.last_step=x0", "sampling.last_std=0.3",
                   "sampling.other_sigmas=[[1, 0], [1, 0.5, 0], "
                   "[1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]]"),
        note="K of 1, 2, 4 and 8",
    ),
    "same_step": Arm(
        overrides=("learning.advantage={mode: same_step}",), like="step_aware", note="control: the credit trap"
    ),
    "shuffled": Arm(
        overrides=("learning.advantage={shuffle_rewards: true}",),
        like="step_aware",
        note="control: must not learn",
    ),
    **{
        f"stale_{age}": Arm(staleness=age, like="step_aware", note=f"groups {age} updates old")
        for age in (1, 2, 4, 8)
    },
    **{
        f"stale_{age}_uncorrected": Arm(
            staleness=age, like="step_aware", overrides=("learning.correction=false",),
            note=f"groups {age} updates old, neither weighted nor dropped",
        )
        for age in (1, 2, 4, 8)
    },
}  # fmt: skip
"""By name. `study.py --list` prints them."""
