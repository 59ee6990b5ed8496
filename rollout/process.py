"""From a behaviour to its transitions: which kernel, and what the last step does.

Into sigma 0 a kernel draws no noise, so that K - 1 of K network calls have a density. What becomes of the last one:

    drop    nothing: its own effect on the final image is not trained. With one step nothing is.
    floor   x[K] ~ N(x0_hat, last_std^2), scored as one more image: K transitions, K + 1 images.
    x0      every step draws its clean image, a_k ~ N(x0_hat_k, (last_std tau_k)^2), which is what is scored, and the
            next state is (1 - s') a_k + s' n_k with n_k the environment's noise. Every step is trained, also a single
            one, and the reward of a step's own image may be credited to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rollout.baselines import dance_sde, flow_cps, flow_sde
from rollout.kernel import Kernel, Transition, annealed, build_process
from rollout.types import Behaviour

KERNELS: Mapping[str, Kernel] = {
    "annealed": annealed,
    "flow_sde": flow_sde,
    "dance_sde": dance_sde,
    "flow_cps": flow_cps,
}
"""By the name that a run file and a group carry."""

Process = tuple[Transition, ...]


def _drop(process: Process, std: float) -> Process:
    return process


def _floor(process: Process, std: float) -> Process:
    return (*process[:-1], replace(process[-1], std=std))


def _x0_space(process: Process, std: float) -> Process:
    return tuple(
        replace(
            transition,
            state_gain=1.0,
            velocity_gain=-transition.sigma,
            std=std * transition.tau,
            carry=1.0 - transition.sigma_next,
            fresh=transition.sigma_next,
            shows_action=True,
        )
        for transition in process
    )


LAST_STEPS: Mapping[str, Callable[[Process, float], Process]] = {"drop": _drop, "floor": _floor, "x0": _x0_space}
"""By the name that a run file and a group carry."""


def process_of(behaviour: Behaviour) -> Process:
    """The K transitions that a group with this behaviour is drawn by; the same for sampling and learning."""
    process = build_process(behaviour.sigmas, behaviour.temperatures, KERNELS[behaviour.kernel])
    return LAST_STEPS[behaviour.last_step](process, behaviour.last_std)


def num_images(process: Sequence[Transition]) -> int:
    """How many images one sample has: one of each step, and with a noisy last step x[K] as well."""
    return len(process) + (1 if _ends_noisy(process) else 0)


def first_image_after(process: Sequence[Transition]) -> int:
    """How many steps after its own a transition's first image comes: 1; in x0-space 0, the action is the image."""
    return 0 if process[0].shows_action else 1


def image_strides(process: Sequence[Transition], strides: Sequence[int]) -> tuple[int, ...]:
    """How many neighbouring samples share each image, where they share each state x[0] .. x[K] as `strides` says."""
    shared = tuple(strides[step + (1 if transition.shows_action else 0)] for step, transition in enumerate(process))
    return (*shared, strides[-1]) if _ends_noisy(process) else shared


def _ends_noisy(process: Sequence[Transition]) -> bool:
    return process[-1].std > 0.0 and not process[-1].shows_action
