"""The clipped step-aware objective on (sample, transition) pairs (ARCHITECTURE.md, "The update").

Everything is per latent dimension (division by D), so that neither resolution nor the number of channels changes the
size of a ratio, and centred: the log ratio is the inner product of the drawn noise with the shift of the mean, whose
expectation is 0 under any drift. The usual difference of log densities is the same minus r^2 / 2, a bias that grows
against the clip as D grows (the one-sided clipping that GRPO-Guard, arXiv 2510.22319, describes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.batching import Pairs
from rollout.kernel import transition_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The update's constants."""

    clip: float = 0.0256  # c: trust region, see clip_form
    clip_form: str = "velocity"  # velocity: c |J| / (std sqrt(D)), equal in v | constant: c / sqrt(D)
    kl_mask: float | None = None  # instead of the clip: mask pairs whose exact KL per dimension is above and grows
    step_weight: str = "equal_v"  # a name of STEP_WEIGHTS
    ratio: str = "centred"  # centred | plain (Flow-GRPO) | guard: centred, times std (GRPO-Guard, arXiv 2510.22319)
    kl_weight: float = 0.0  # beta
    kl_form: str = "velocity"  # velocity: mean squared difference of v; exact: of the means, in units of std
    correction: bool = True  # False: off-policy pairs are neither weighted nor dropped, a control
    behaviour_ratio_max: float = 2.0  # truncation of the behaviour-to-anchor ratio
    drift_max: float = 0.5  # pairs whose anchor drifted further from the behaviour policy are dropped, counted


def per_dimension(product: Tensor) -> Tensor:
    """Mean over the latent's dimensions: [n, C, h, w] -> [n]."""
    return product.flatten(1).mean(1)


def log_ratio(action: Tensor, mean_old: Tensor, mean_new: Tensor, std: Tensor, form: str = "centred") -> Tensor:
    """Log p_new(action) - log p_old(action) per dimension [n]; centred: without its bias -r^2 / 2; guard: that, times
    the step's std, so that one clip fits all steps.
    """
    scale = std.view(-1, 1, 1, 1)
    shift = (mean_new - mean_old) / scale
    centred = per_dimension((action - mean_old) / scale * shift)
    if form == "plain":
        return centred - 0.5 * per_dimension(shift.square())
    return centred * std if form == "guard" else centred


def drift(mean_old: Tensor, mean_new: Tensor, std: Tensor) -> Tensor:
    """R [n], the root mean square shift of the mean in units of std; r^2 / 2 is the exact KL per dimension."""
    return per_dimension(((mean_new - mean_old) / std.view(-1, 1, 1, 1)).square()).sqrt()


def means(pairs: Pairs, v: Tensor) -> Tensor:
    """The transition means of the pairs for velocities v [n, C, h, w]."""
    return transition_mean(pairs.states, v, pairs.state_gain.view(-1, 1, 1, 1), pairs.velocity_gain.view(-1, 1, 1, 1))


def behaviour_means(pairs: Pairs) -> Tensor:
    """The means under the weights that drew the group, recovered from action and noise."""
    return pairs.actions - pairs.std.view(-1, 1, 1, 1) * pairs.noise


STEP_WEIGHTS: dict[str, Callable[[Pairs], Tensor]] = {
    "equal_v": lambda pairs: pairs.std / pairs.velocity_gain.abs(),  # equal gradient in v at every step
    "none": lambda pairs: torch.ones_like(pairs.std),
    "std": lambda pairs: pairs.std,  # TempFlow-GRPO, arXiv 2508.04324
    "variance": lambda pairs: pairs.std.square(),  # what Flow-CPS implies
    "inverse_time": lambda pairs: 1.0 / (pairs.sigma - pairs.sigma_next),  # GRPO-Guard's, beside its ratio
}
"""w_k [n] by its name in a run file."""


def trust_region(pairs: Pairs, objective: Objective) -> Tensor:
    """How far the ratio of each pair may go from 1, times sqrt(D); [n]."""
    if objective.clip_form == "constant":
        return torch.full_like(pairs.std, objective.clip)
    in_v = objective.clip * pairs.velocity_gain.abs()
    return in_v if objective.ratio == "guard" else in_v / pairs.std


@torch.no_grad()
def leaving(pairs: Pairs, mean_old: Tensor, mean_new: Tensor, surrogate: Tensor, kl_max: float) -> Tensor:
    """Which pairs [n] are outside of the trust region, by the transition's exact KL per dimension, and would go on
    outwards: their surrogate has risen already (Flow-DPPO's mask).
    """
    return (0.5 * drift(mean_old, mean_new, pairs.std).square() > kl_max) & (surrogate > 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class PairLoss:
    """Per-pair results [n] of one micro-batch; `loss` alone carries a gradient."""

    loss: Tensor
    kl: Tensor
    log_ratio: Tensor
    drift: Tensor  # from the behaviour policy
    clipped: Tensor  # bool
    dropped: Tensor  # bool, drift above drift_max


def pair_loss(pairs: Pairs, v: Tensor, v_anchor: Tensor, v_reference: Tensor | None, objective: Objective) -> PairLoss:
    """-w min(A rho, A clip(rho)) + beta KL for every pair.

    v carries the gradient, v_anchor is the velocity when the update began (equal to v.detach() at its first optimizer
    step), v_reference that of the reference policy where beta > 0; all [n, C, h, w] float32.
    """
    mean_new, mean_anchor, mean_behaviour = means(pairs, v), means(pairs, v_anchor), behaviour_means(pairs)
    dimensions = pairs.states[0].numel()
    ell = log_ratio(pairs.actions, mean_anchor, mean_new, pairs.std, objective.ratio)
    gain = torch.expm1(ell)  # rho - 1: the constant A in the objective has no gradient and is left out
    if objective.kl_mask is None:
        clip = trust_region(pairs, objective) / dimensions**0.5
        surrogate = torch.minimum(pairs.advantage * gain, pairs.advantage * torch.clamp(gain, -clip, clip))
    else:
        surrogate = pairs.advantage * gain
        surrogate = torch.where(leaving(pairs, mean_anchor, mean_new, surrogate, objective.kl_mask), 0.0, surrogate)
    with torch.no_grad():
        far = drift(mean_behaviour, mean_anchor, pairs.std)
        form = "plain" if objective.ratio == "plain" else "centred"
        to_anchor = log_ratio(pairs.actions, mean_behaviour, mean_anchor, pairs.std, form)
        dropped = (far > objective.drift_max) & objective.correction
        trust = torch.where(dropped, 0.0, to_anchor.exp().clamp(max=objective.behaviour_ratio_max))
        trust = trust if objective.correction else torch.ones_like(trust)
        clipped = surrogate != pairs.advantage * gain
    loss = -STEP_WEIGHTS[objective.step_weight](pairs) * trust * surrogate
    kl = torch.zeros_like(loss)
    if v_reference is not None:
        kl = kl_to_reference(pairs, v, v_reference, objective.kl_form)
        loss = loss + objective.kl_weight * kl
    return PairLoss(loss, kl.detach(), ell.detach(), far, clipped, dropped)


def kl_to_reference(pairs: Pairs, v: Tensor, v_reference: Tensor, form: str) -> Tensor:
    """[n] with gradient: mean squared velocity difference, or the exact KL of the transitions per dimension."""
    if form == "velocity":
        return per_dimension((v - v_reference).square())
    shift = (v - v_reference) * (pairs.velocity_gain / pairs.std).view(-1, 1, 1, 1)
    return 0.5 * per_dimension(shift.square())
