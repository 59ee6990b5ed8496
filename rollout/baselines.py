"""The stochastic samplers of other methods, as transitions of the one seam.

With dt = s - s' > 0 and eps_hat = x + (1 - s) v, an SDE with the marginals of the flow and diffusion g adds to the
Euler step a drift along the score, -eps_hat / s, and noise:

    mean = x - dt v - g^2 dt / (2 s) eps_hat            std = g sqrt(dt)

The marginals are right as dt -> 0 only: at few steps there is too much noise (measured in tests/rollout/
test_baselines.py). The transition into s' = 0 is the Euler step, so that what is scored is always a clean image.
"""

from __future__ import annotations

import math
from dataclasses import replace

from rollout.kernel import Transition, annealed


def flow_sde(step: int, sigma: float, sigma_next: float, tau: float) -> Transition:
    """Flow-GRPO (arXiv 2505.05470): g = tau sqrt(s / (1 - s)); tau is its noise level, 0.7 in the paper. At s = 1,
    where g is infinite, its code takes 1 - s' in the place of 1 - s.
    """
    noise_left = 1.0 - (sigma_next if sigma == 1.0 else sigma)
    return _sde(step, sigma, sigma_next, tau, tau * math.sqrt(sigma / noise_left))


def dance_sde(step: int, sigma: float, sigma_next: float, tau: float) -> Transition:
    """DanceGRPO (arXiv 2505.07818): g = tau at every noise level; tau is its eta, 0.3 in the paper."""
    return _sde(step, sigma, sigma_next, tau, tau)


def flow_cps(step: int, sigma: float, sigma_next: float, tau: float) -> Transition:
    """Coefficients-Preserving Sampling (arXiv 2509.05952): tau is its eta; the annealed kernel at sin(eta pi / 2).
    ValueError for an eta above 1, where the sine falls again.
    """
    if tau > 1.0:
        raise ValueError(f"step {step}: kernel flow_cps has an eta of at most 1, found temperature {tau:g}")
    return replace(annealed(step, sigma, sigma_next, math.sin(tau * math.pi / 2.0)), tau=tau)


def _sde(step: int, sigma: float, sigma_next: float, tau: float, diffusion: float) -> Transition:
    dt = sigma - sigma_next
    pull = 0.5 * diffusion * diffusion * dt / sigma if sigma_next > 0.0 else 0.0
    return Transition(
        step=step,
        sigma=sigma,
        sigma_next=sigma_next,
        tau=tau,
        state_gain=1.0 - pull,
        velocity_gain=-dt - pull * (1.0 - sigma),
        std=diffusion * math.sqrt(dt) if sigma_next > 0.0 else 0.0,
    )
