import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from learner.batching import Pairs
from learner.loss import (
    STEP_WEIGHTS,
    Objective,
    behaviour_means,
    drift,
    kl_to_reference,
    log_ratio,
    means,
    pair_loss,
)
from rollout.kernel import build_process

PROCESS = build_process((1.0, 0.75, 0.5, 0.25, 0.0), (1.0, 0.9, 0.8, 0.8))
SHAPE = (2, 2, 3)
WEIGHTS = tuple(STEP_WEIGHTS)


def normal(seed, n, shape=SHAPE):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(n=9, shape=SHAPE, seed=0, advantage=None, steps=None):
    """Pairs over the trained steps, honestly drawn with the velocities that come with them, float64."""
    steps = torch.arange(n) % 3 if steps is None else torch.full((n,), steps)
    transitions = [PROCESS[int(step)] for step in steps]

    def each(name):
        return torch.tensor([getattr(t, name) for t in transitions], dtype=torch.float64)

    x, v, z = (normal(seed + i, n, shape) for i in range(3))
    gains = (each("state_gain").view(-1, 1, 1, 1), each("velocity_gain").view(-1, 1, 1, 1))
    pairs = Pairs(
        states=x,
        actions=gains[0] * x + gains[1] * v + each("std").view(-1, 1, 1, 1) * z,
        noise=z,
        sigma=each("sigma"),
        sigma_next=each("sigma_next"),
        state_gain=each("state_gain"),
        velocity_gain=each("velocity_gain"),
        std=each("std"),
        advantage=normal(seed + 3, n, (1,)).flatten() if advantage is None else advantage,
        step=steps,
        prompt=torch.zeros(n, dtype=torch.int64),
        count=torch.ones(n),
    )
    return pairs, v


def stated_objective(pairs, v, v_anchor, v_reference, objective):
    """The objective as it is written down, one pair at a time, in plain numbers."""
    total = []
    for i in range(len(pairs)):
        one = pairs.take(torch.tensor([i]))
        std, gain, size = float(one.std), float(one.velocity_gain), one.states.numel()
        action = one.actions.flatten()

        def mean(velocity, one=one, gain=gain):
            return (float(one.state_gain) * one.states + gain * velocity).flatten()

        old, new, drawn = mean(v_anchor[i]), mean(v[i]), action - std * one.noise.flatten()

        def ratio(a, b, action=action, std=std, size=size):
            value = float((action - a) @ (b - a)) / (std**2 * size)
            bias = 0.5 * float((b - a) @ (b - a)) / (std**2 * size)
            return math.exp(value if objective.ratio == "centred" else value - bias)

        rho, advantage = ratio(old, new), float(one.advantage)
        clip = objective.clip * abs(gain) / (std * math.sqrt(size))
        far = math.sqrt(float((old - drawn).square().mean())) / std
        trust = 0.0 if far > objective.drift_max else min(ratio(drawn, old), objective.behaviour_ratio_max)
        weight = {"equal_v": std / abs(gain), "none": 1.0, "std": std, "variance": std**2}[objective.step_weight]
        # rho - 1, for the constant advantage has no gradient
        surrogate = min(advantage * rho, advantage * min(max(rho, 1.0 - clip), 1.0 + clip)) - advantage
        loss = -weight * trust * surrogate
        if v_reference is not None:
            difference = float((v[i] - v_reference[i]).square().mean())
            scale = 1.0 if objective.kl_form == "velocity" else 0.5 * (gain / std) ** 2
            loss += objective.kl_weight * scale * difference
        total.append(loss)
    return torch.tensor(total, dtype=torch.float64)


OBJECTIVES = {
    "plain GRPO": Objective(step_weight="none", ratio="plain", clip=1.0, drift_max=9.0),
    "some clipped, some dropped": Objective(clip=0.1, drift_max=0.15),
    "trust truncated": Objective(clip=1.0, drift_max=9.0, behaviour_ratio_max=1.001, step_weight="std"),
    "KL in v": Objective(kl_weight=0.3, clip=1.0, drift_max=9.0, step_weight="variance"),
    "exact KL": Objective(kl_weight=0.3, kl_form="exact", clip=1.0, drift_max=9.0),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_the_gradient_is_that_of_the_stated_objective_by_finite_differences(objective):
    pairs, v_behaviour = build()
    v_anchor = v_behaviour + 0.1 * normal(7, 9)
    v = (v_anchor + 0.2 * normal(8, 9)).requires_grad_()
    v_reference = normal(9, 9) if objective.kl_weight else None
    result = pair_loss(pairs, v, v_anchor, v_reference, objective)
    (gradient,) = torch.autograd.grad(result.loss.sum(), v)
    stated = stated_objective(pairs, v.detach(), v_anchor, v_reference, objective)
    torch.testing.assert_close(result.loss.detach(), stated)

    h = 1e-5
    for place in [(0, 1, 0), (1, 0, 2)]:
        nudge = torch.zeros_like(v)
        nudge[(slice(None), *place)] = h
        with torch.no_grad():
            above = stated_objective(pairs, v + nudge, v_anchor, v_reference, objective)
            below = stated_objective(pairs, v - nudge, v_anchor, v_reference, objective)
        found = (above - below) / (2.0 * h)
        torch.testing.assert_close(gradient[(slice(None), *place)], found, atol=1e-8, rtol=1e-5)
    if objective is OBJECTIVES["some clipped, some dropped"]:
        assert 0 < int(result.clipped.sum()) < 9
        assert 0 < int(result.dropped.sum()) < 9
        assert torch.all(gradient[result.clipped | result.dropped] == 0.0)


@given(st.integers(0, 5))
def test_the_plain_log_ratio_is_the_difference_of_normal_densities(seed):
    pairs, v = build(seed=seed)
    old, new = means(pairs, v), means(pairs, v + normal(seed + 9, 9))
    std = pairs.std.view(-1, 1, 1, 1)
    expected = (Normal(new, std).log_prob(pairs.actions) - Normal(old, std).log_prob(pairs.actions)).flatten(1).mean(1)
    torch.testing.assert_close(log_ratio(pairs.actions, old, new, pairs.std, "plain"), expected)
    r = drift(old, new, pairs.std)
    torch.testing.assert_close(log_ratio(pairs.actions, old, new, pairs.std), expected + 0.5 * r.square())


def test_half_the_squared_drift_is_the_exact_kl_of_the_transitions():
    pairs, v = build()
    old, new = means(pairs, v), means(pairs, v + normal(9, 9))
    std = pairs.std.view(-1, 1, 1, 1)
    exact = kl_divergence(Normal(old, std), Normal(new, std)).flatten(1).mean(1)
    torch.testing.assert_close(0.5 * drift(old, new, pairs.std).square(), exact)
    torch.testing.assert_close(kl_to_reference(pairs, v + normal(9, 9), v, "exact"), exact)


def test_the_centred_log_ratio_is_0_in_expectation_under_a_known_drift_and_the_plain_one_is_not():
    n, r = 20_000, 0.4
    pairs, v = build(n)
    old = means(pairs, v)
    new = old + r * pairs.std.view(-1, 1, 1, 1)
    torch.testing.assert_close(drift(old, new, pairs.std), torch.full((n,), r, dtype=torch.float64))
    centred = log_ratio(pairs.actions, old, new, pairs.std)
    plain = log_ratio(pairs.actions, old, new, pairs.std, "plain")
    error = float(centred.std()) / n**0.5
    assert abs(float(centred.mean())) < 4.0 * error
    assert float(plain.mean()) == pytest.approx(-(r**2) / 2.0, abs=4.0 * error)
    assert r**2 / 2.0 > 20.0 * error


def test_honest_pairs_give_back_the_means_they_were_drawn_from():
    pairs, v = build()
    torch.testing.assert_close(behaviour_means(pairs), means(pairs, v))


def test_before_anything_moves_the_ratio_is_1_the_drift_0_and_nothing_clipped_or_dropped():
    pairs, v = build()
    result = pair_loss(pairs, v, v, None, Objective(clip=0.0, drift_max=1e-12))
    assert torch.all(result.log_ratio == 0.0)
    assert float(result.drift.max()) < 1e-12
    assert not result.clipped.any()
    assert not result.dropped.any()


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("towards", [1.0, -1.0])
def test_the_clip_stops_only_a_move_in_the_direction_that_the_advantage_pays_for(advantage, towards):
    pairs, v_anchor = build(advantage=torch.full((9,), advantage, dtype=torch.float64))
    # along the noise the log ratio rises, against it it falls; the velocity gain is negative
    v = (v_anchor - towards * 0.5 * pairs.noise).requires_grad_()
    result = pair_loss(pairs, v, v_anchor, None, Objective())
    (gradient,) = torch.autograd.grad(result.loss.sum(), v)
    assert torch.all(torch.sign(result.log_ratio) == towards)
    stopped = advantage == towards
    assert result.clipped.tolist() == [stopped] * 9
    assert torch.all((gradient.flatten(1).norm(dim=1) == 0.0) == stopped)


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 16, 16)])
def test_the_trust_region_is_the_same_change_of_v_at_every_step_and_resolution(step, shape):
    """A change of v of root mean square c moves the log ratio by one standard deviation of the clip: 16 % pass it."""
    n, c = 3000, 0.0256
    pairs, v = build(n, shape, advantage=torch.ones(n, dtype=torch.float64), steps=step)
    moved = pair_loss(pairs, v + c * normal(9, n, shape), v, None, Objective(clip=c))
    assert float(moved.clipped.double().mean()) == pytest.approx(0.159, abs=0.03)


def test_ratio_drift_kl_and_loss_do_not_depend_on_the_number_of_dimensions():
    pairs, v_behaviour = build()
    v_anchor, v_reference = v_behaviour + 0.1 * normal(7, 9), normal(9, 9)
    v = v_anchor + 0.1 * normal(8, 9)
    wide = Pairs(*(
        tensor.repeat(1, 4, 2, 1) if tensor.dim() == 4 else tensor
        for tensor in (getattr(pairs, name) for name in Pairs.__dataclass_fields__)
    ))  # fmt: skip
    objective = Objective(clip=9.0, kl_weight=0.1)
    small = pair_loss(pairs, v, v_anchor, v_reference, objective)
    large = pair_loss(wide, *(w.repeat(1, 4, 2, 1) for w in (v, v_anchor, v_reference)), objective)
    for name in ("loss", "kl", "log_ratio", "drift"):
        torch.testing.assert_close(getattr(small, name), getattr(large, name))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_only_the_equal_v_weight_makes_the_gradient_in_v_equal_over_steps(kind):
    pairs, v = build(advantage=torch.ones(9, dtype=torch.float64))
    v.requires_grad_()
    loss = pair_loss(pairs, v, v.detach(), None, Objective(step_weight=kind)).loss
    (gradient,) = torch.autograd.grad(loss.sum(), v)
    sizes = gradient.flatten(1).norm(dim=1) / pairs.noise.flatten(1).norm(dim=1)
    equal = torch.allclose(sizes, sizes[:1].expand(9))
    assert equal == (kind == "equal_v")
    if equal:
        torch.testing.assert_close(sizes, torch.full_like(sizes, 1.0 / 12.0))


def test_step_weights_are_what_their_names_say():
    pairs, _ = build()
    assert torch.equal(STEP_WEIGHTS["none"](pairs), torch.ones(9, dtype=torch.float64))
    assert torch.equal(STEP_WEIGHTS["std"](pairs), pairs.std)
    assert torch.equal(STEP_WEIGHTS["variance"](pairs), pairs.std**2)
    torch.testing.assert_close(STEP_WEIGHTS["equal_v"](pairs) * pairs.velocity_gain.abs(), pairs.std)
    with pytest.raises(KeyError):
        STEP_WEIGHTS["unknown"](pairs)


@pytest.mark.parametrize("form", ["velocity", "exact"])
def test_the_kl_is_0_at_the_reference_and_pulls_back_towards_it(form):
    pairs, reference = build()
    assert torch.all(kl_to_reference(pairs, reference, reference, form) == 0.0)
    v = (reference + 0.1 * normal(7, 9)).requires_grad_()
    (pull,) = torch.autograd.grad(kl_to_reference(pairs, v, reference, form).sum(), v)
    away = (v - reference).flatten(1)
    cosine = torch.nn.functional.cosine_similarity(pull.flatten(1), away)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_the_kl_adds_its_weight_times_itself_to_the_loss():
    pairs, v = build()
    reference = normal(7, 9)
    without = pair_loss(pairs, v, v, None, Objective(kl_weight=0.3))
    with_kl = pair_loss(pairs, v, v, reference, Objective(kl_weight=0.3))
    torch.testing.assert_close(with_kl.loss - without.loss, 0.3 * with_kl.kl)
    assert torch.all(without.kl == 0.0)
    assert torch.all(with_kl.kl > 0.0)


def test_only_the_loss_carries_a_gradient():
    pairs, v = build()
    v.requires_grad_()
    result = pair_loss(pairs, v, v.detach(), normal(7, 9), Objective(kl_weight=0.1))
    assert result.loss.requires_grad
    assert not any(getattr(result, name).requires_grad for name in ("kl", "log_ratio", "drift"))


# Options of other methods


def test_guards_ratio_is_the_centred_one_in_units_of_the_steps_noise():
    """GRPO-Guard: (log ratio + its bias) std sqrt(dt), here per dimension."""
    pairs, v = build()
    old, new = means(pairs, v), means(pairs, v + 0.1 * normal(8, 9))
    plain = log_ratio(pairs.actions, old, new, pairs.std, "plain")
    bias = 0.5 * drift(old, new, pairs.std).square()
    torch.testing.assert_close(log_ratio(pairs.actions, old, new, pairs.std, "guard"), (plain + bias) * pairs.std)


def test_guards_trust_region_in_v_is_the_centred_ones():
    pairs, v = build(n=300, advantage=torch.ones(300, dtype=torch.float64))
    moved = v + 0.0256 * normal(9, 300)
    centred, guard = (pair_loss(pairs, moved, v, None, Objective(ratio=ratio)) for ratio in ("centred", "guard"))
    differ = (centred.clipped != guard.clipped).double().mean()
    assert float(differ) < 0.02  # the clip is on expm1 of either
    assert 0.05 < float(guard.clipped.double().mean()) < 0.4


def test_a_constant_clip_is_the_same_at_every_step():
    pairs, v = build(n=3000, advantage=torch.ones(3000, dtype=torch.float64))
    c = 0.1
    moved = pair_loss(pairs, v + 0.05 * normal(9, 3000), v, None, Objective(clip=c, clip_form="constant"))
    bound = math.log1p(c / pairs.states[0].numel() ** 0.5)
    assert torch.equal(moved.clipped, moved.log_ratio > bound)
    assert 0.0 < float(moved.clipped.double().mean()) < 1.0


def test_the_kl_mask_leaves_out_what_is_far_and_goes_on_outwards():
    n = 2000
    signs = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0).double()
    pairs, v = build(n=n, advantage=signs)
    far = torch.where(torch.arange(n) % 4 < 2, 0.3, 0.001).double().view(-1, 1, 1, 1)
    moved = (v + far * normal(9, n)).requires_grad_()
    result = pair_loss(pairs, moved, v, None, Objective(kl_mask=1e-3))
    kl = 0.5 * drift(means(pairs, v), means(pairs, moved.detach()), pairs.std).square()
    outwards = signs * result.log_ratio > 0.0
    assert torch.equal(result.clipped, (kl > 1e-3) & outwards)
    (gradient,) = torch.autograd.grad(result.loss.sum(), moved)
    silent = gradient.flatten(1).abs().sum(1) == 0.0
    assert torch.equal(silent, result.clipped)
    assert 0.1 < float(silent.double().mean()) < 0.4


def test_the_inverse_time_weight_is_one_over_the_steps_length():
    pairs, _ = build()
    torch.testing.assert_close(
        STEP_WEIGHTS["inverse_time"](pairs), torch.full((9,), 4.0, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_without_correction_off_policy_pairs_are_neither_weighted_nor_dropped():
    pairs, v = build()
    anchor = v + 0.5 * normal(7, 9)
    corrected = pair_loss(pairs, anchor, anchor, None, Objective(drift_max=1e-3))
    plain = pair_loss(pairs, anchor + 1e-3, anchor, None, Objective(drift_max=1e-3, correction=False, clip=9.0))
    on_policy = replace(pairs, noise=(pairs.actions - means(pairs, anchor)) / pairs.std.view(-1, 1, 1, 1))
    expected = pair_loss(on_policy, anchor + 1e-3, anchor, None, Objective(clip=9.0))
    assert bool(corrected.dropped.all())
    assert not bool(plain.dropped.any())
    torch.testing.assert_close(plain.loss, expected.loss)
