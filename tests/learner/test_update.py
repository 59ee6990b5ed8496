from dataclasses import replace

import numpy as np
import pytest
import torch

from learner.advantage import build_credit
from learner.batching import build_pairs
from learner.combination import Weighting, group_advantages
from learner.guard import RatioGuardError
from learner.loss import Objective, behaviour_means, log_ratio, means, pair_loss
from learner.optimizer import RateSchedule
from learner.update import Learner
from rollout.lora import reference
from rollout.trained import digest_tensors, train_everything, trained_tensors
from tests.tiny_groups import (
    adapted_policy,
    behaviour,
    draw_group,
    draw_groups,
    fingerprint,
    flat_weights,
    gradient_after_one_step,
    rewards_of,
    spec,
    with_trajectory,
    with_values,
)
from tests.tiny_policies import TinyPolicy


def shifted(groups, amount=0.2):
    """A policy away from the one that drew the groups."""
    policy = adapted_policy()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in trained_tensors(policy.network).values():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return policy


def gradient_of(policy, groups, **options):
    learner = Learner(policy, spec(**options))
    learner.update(groups, guard=False)
    return gradient_after_one_step(learner)


def honest(**options):
    """A learner and groups drawn with its very weights."""
    policy = adapted_policy()
    return Learner(policy, spec(**options)), draw_groups(policy)


# The gradient of an update


def test_before_the_first_optimizer_step_drift_and_log_ratio_are_0_and_the_guard_passes():
    learner, groups = honest()
    report = learner.update(groups, guard=True)
    assert 0.0 < report.guard_drift < 1e-5
    assert all(0.0 < drift < 1e-5 for drift in report.drift.values())
    assert report.log_ratio_max == {0: 0.0, 1: 0.0, 2: 0.0}
    assert (report.clip_fraction, report.dropped_fraction) == (0.0, 0.0)
    assert report.trained


def test_the_gradient_is_the_mean_over_all_pairs_skipped_ones_included():
    groups = draw_groups(adapted_policy())
    groups[1] = with_values(groups[1], np.full((4, 4), 0.5))  # a saturated group: every advantage 0
    learner = Learner(adapted_policy(), spec())
    report = learner.update(groups, guard=True)
    assert report.skipped_fraction == pytest.approx(1.0 / 3.0)

    policy = adapted_policy()
    pairs = build_pairs(groups, group_advantages(groups, learner.spec.credit, learner.spec.weightings, 1))
    v = policy.velocity(
        pairs.states, pairs.sigma, policy.encode(["prompt 0", "prompt 1", "prompt 2"]).take(pairs.prompt)
    )
    pair_loss(pairs, v, v.detach(), None, learner.spec.objective).loss.mean().backward()
    expected = torch.cat([p.grad.flatten() for p in trained_tensors(policy.network).values()])
    torch.testing.assert_close(gradient_after_one_step(learner), expected, atol=1e-7, rtol=1e-4)
    assert report.grad_norm == pytest.approx(float(expected.norm()), rel=1e-4)


@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
@pytest.mark.parametrize("micro_batch", [1, 5, 1000])
def test_the_micro_batch_changes_nothing(micro_batch, kl_weight):
    groups = draw_groups(adapted_policy())
    objective = Objective(kl_weight=kl_weight)
    expected = gradient_of(shifted(groups), groups, objective=objective)
    found = gradient_of(shifted(groups), groups, objective=objective, micro_batch=micro_batch)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_number_of_transitions_does_not_change_the_size_of_an_update():
    groups = draw_groups(adapted_policy())
    once = gradient_of(adapted_policy(), groups)

    def twice(group):
        trajectory = group.group.trajectory
        return with_trajectory(
            group,
            transitions=trajectory.transitions * 2,
            **{name: getattr(trajectory, name).repeat(1, 2, 1, 1, 1) for name in ("states", "actions", "noise")},
        )

    torch.testing.assert_close(gradient_of(adapted_policy(), [twice(group) for group in groups]), once)


def test_the_number_of_groups_does_not_change_the_size_of_an_update():
    groups = draw_groups(adapted_policy())
    torch.testing.assert_close(
        gradient_of(adapted_policy(), groups * 3), gradient_of(adapted_policy(), groups), atol=1e-7, rtol=1e-4
    )


def test_with_a_kl_no_pair_is_skipped_and_the_gradient_pulls_towards_the_reference():
    groups = [with_values(group, np.full((4, 4), 0.5)) for group in draw_groups(adapted_policy())]
    policy = shifted(groups)
    with reference(policy.network):
        target = {name: p.detach().clone() for name, p in policy.network.named_parameters()}
    learner = Learner(policy, spec(objective=Objective(kl_weight=0.5), rate=1e-3))
    before = learner.update(groups, guard=False)
    assert before.skipped_fraction == 0.0
    assert before.kl > 0.0
    for _ in range(5):
        after = learner.update(groups, guard=False)
    assert after.kl < before.kl
    base = {name: p for name, p in policy.network.named_parameters() if not p.requires_grad}
    assert all(torch.equal(base[name], target[name]) for name in base)


def test_with_the_adapter_at_its_start_the_kl_is_0_and_has_no_gradient():
    groups = [with_values(group, np.full((4, 4), 0.5)) for group in draw_groups(adapted_policy())]
    learner = Learner(adapted_policy(), spec(objective=Objective(kl_weight=0.5)))
    report = learner.update(groups, guard=True)
    assert report.kl == 0.0
    assert report.grad_norm == 0.0


def test_a_kl_without_an_adapter_is_refused():
    policy = TinyPolicy()
    train_everything(policy.network)
    with pytest.raises(ValueError, match=r"KL to the reference needs an adapter.*`learning\.kl_weight: 0`"):
        Learner(policy, spec(objective=Objective(kl_weight=0.1)))
    Learner(policy, spec())


def test_one_update_makes_the_better_sample_likelier_than_the_worse():
    policy = adapted_policy()
    group = draw_group(policy, 0, num_samples=2)
    group = with_values(group, np.array([[0.0] * 4, [1.0] * 4]))
    Learner(policy, spec(rate=1e-3)).update([group], guard=True)
    pairs = build_pairs([group], [np.zeros((2, 3))])
    with torch.no_grad():
        v = policy.velocity(pairs.states, pairs.sigma, policy.encode(["prompt 0"]).take(pairs.prompt))
    moved = log_ratio(pairs.actions, behaviour_means(pairs), means(pairs, v), pairs.std, "plain").view(2, 3).sum(1)
    assert float(moved[1]) > 0.0 > float(moved[0])


def test_updates_raise_the_reward():
    learner, _ = honest(rate=3e-2)
    means_of_final = []
    for index in range(20):
        groups = draw_groups(learner.policy, 4, first=4 * index, num_samples=8)
        report = learner.update(groups, guard=True)
        means_of_final.append(report.rewards["brightness"].mean[-1])
    assert means_of_final[-1] > means_of_final[0] + 0.5


def test_the_gradient_norm_is_clipped_and_reported_as_it_was():
    groups = draw_groups(adapted_policy())
    plain = gradient_of(adapted_policy(), groups)
    learner = Learner(adapted_policy(), spec(max_grad_norm=1e-3))
    report = learner.update(groups, guard=False)
    clipped = gradient_after_one_step(learner)
    assert report.grad_norm == pytest.approx(float(plain.norm()), rel=1e-5)
    torch.testing.assert_close(clipped, plain * 1e-3 / plain.norm(), atol=1e-9, rtol=1e-3)


# The guard


def tampered_states(group):
    states = group.group.trajectory.states.clone()
    states[2, 1] += 0.01
    return with_trajectory(group, states=states)


def tampered_states_with_nan(group):
    states = group.group.trajectory.states.clone()
    states[2, 1, 0, 0, 0] = float("nan")
    return with_trajectory(group, states=states)


def tampered_temperature(group):
    taus = (0.9, 0.8, 0.9, 0.9)
    return replace(group, group=replace(group.group, behaviour=replace(behaviour(), temperatures=taus)))


def other_prompt(group):
    return replace(group, group=replace(group.group, prompt=replace(group.group.prompt, text="another")))


@pytest.mark.parametrize(
    ("tamper", "step"),
    [(tampered_states, 1), (tampered_states_with_nan, 1), (tampered_temperature, 1), (other_prompt, 0)],
)
@pytest.mark.parametrize("optimizer_steps", [1, 2])
def test_a_tampered_group_breaks_the_guard_before_anything_is_changed(tamper, step, optimizer_steps):
    learner, groups = honest(optimizer_steps=optimizer_steps)
    before = fingerprint(learner)
    groups[0] = tamper(groups[0])
    with pytest.raises(RatioGuardError, match=rf"^step {step}: "):
        learner.update(groups, guard=True)
    assert fingerprint(learner) == before
    assert learner.updates_done == 0
    assert all(parameter.grad is None for parameter in learner.parameters.values())


def test_an_adapter_that_moved_since_the_rollout_breaks_the_guard():
    groups = draw_groups(adapted_policy())
    learner = Learner(shifted(groups, 0.01), spec())
    before = fingerprint(learner)
    with pytest.raises(RatioGuardError):
        learner.update(groups, guard=True)
    assert fingerprint(learner) == before


def test_without_the_guard_the_same_group_is_off_policy_and_its_drift_is_reported():
    groups = draw_groups(adapted_policy())
    report = Learner(shifted(groups, 0.01), spec()).update(groups, guard=False)
    assert report.trained
    assert np.isnan(report.guard_drift)
    assert all(drift > 1e-4 for drift in report.drift.values())


@pytest.mark.parametrize("optimizer_steps", [1, 2])
def test_the_histograms_hold_every_pairs_advantage_and_the_drift_of_every_pair_that_was_computed(optimizer_steps):
    groups = draw_groups(adapted_policy())
    groups[1] = with_values(groups[1], np.full((4, 4), 0.5))  # every advantage 0: its drift is not asked for
    report = Learner(shifted(groups, 0.01), spec(optimizer_steps=optimizer_steps)).update(groups, guard=False)
    assert {step: sum(found.counts) for step, found in report.advantages.items()} == dict.fromkeys(range(3), 12)
    assert {step: sum(found.counts) for step, found in report.drifts.items()} == dict.fromkeys(range(3), 8)
    for step, found in report.drifts.items():
        assert (found.squares / 8) ** 0.5 == pytest.approx(report.drift[step], rel=1e-6)
        assert found.low <= report.drift[step] <= found.high
    for step, found in report.advantages.items():
        spread = (found.squares - found.total**2 / 12) / 11
        assert spread**0.5 == pytest.approx(report.advantage_std[step], rel=1e-5)


def test_pairs_too_far_from_their_behaviour_are_dropped_counted_and_teach_nothing():
    groups = draw_groups(adapted_policy())
    learner = Learner(shifted(groups), spec(objective=Objective(drift_max=1e-6)))
    report = learner.update(groups, guard=False)
    assert report.dropped_fraction == 1.0
    assert report.grad_norm == 0.0


def test_where_the_guard_measured_nothing_it_says_so():
    groups = [with_values(group, np.full((4, 4), 0.5)) for group in draw_groups(adapted_policy())]
    report = Learner(adapted_policy(), spec()).update(groups, guard=True)
    assert report.skipped_fraction == 1.0
    assert np.isnan(report.guard_drift)


def test_a_group_is_checked_with_the_weights_that_drew_it_and_the_live_ones_come_back():
    group = draw_group(adapted_policy(), 0)
    drew = {name: p.detach().clone() for name, p in trained_tensors(adapted_policy().network).items()}
    learner = Learner(shifted([group]), spec(micro_batch=5))
    before = fingerprint(learner)
    assert 0.0 < learner.check_group(group, drew) < 1e-5
    live = {name: p.detach().clone() for name, p in learner.parameters.items()}
    with pytest.raises(RatioGuardError, match=r"^step \d: "):
        learner.check_group(group, live)
    with pytest.raises(RatioGuardError, match=r"^step 1: "):
        learner.check_group(tampered_states(group), drew)
    assert fingerprint(learner) == before


# What is refused


@pytest.mark.parametrize("spoil", ["reward", "gradient"])
def test_what_is_not_finite_changes_no_weight_and_the_next_update_is_sound(spoil):
    first = 1e38 if spoil == "gradient" else 1.0
    weightings = {"brightness": Weighting(weights=((1, first), (2, 1.0)))}
    learner, groups = honest(weightings=weightings)
    before, sound = flat_weights(learner), groups[1]
    if spoil == "reward":
        values = groups[0].rewards[0].values.copy()
        values[1, -1] = np.nan
        groups[0] = with_values(groups[0], values)
    report = learner.update(groups, guard=False)
    assert not report.trained
    assert torch.equal(flat_weights(learner), before)
    assert not learner.tensors()["optimizer"]

    learner.update([sound], guard=True)
    alone = Learner(adapted_policy(), spec())
    alone.update([sound], guard=True)
    assert torch.equal(gradient_after_one_step(learner), gradient_after_one_step(alone))


# Several optimizer steps


def test_several_optimizer_steps_are_ratios_to_where_the_update_began():
    objective = Objective(clip=1e-6)
    learner, groups = honest(optimizer_steps=3, rate=1e-3, objective=objective)
    report = learner.update(groups, guard=True)
    assert 0.0 < report.clip_fraction < 1.0
    assert all(ratio > 1e-6 for ratio in report.log_ratio_max.values())
    assert report.guard_drift < 1e-5
    still, groups = honest(optimizer_steps=3, rate=0.0, objective=objective)
    report = still.update(groups, guard=True)
    assert all(ratio < 1e-6 for ratio in report.log_ratio_max.values())


@pytest.mark.parametrize("steps", [1, 2, 5, 7])
def test_an_update_takes_as_many_optimizer_steps_as_it_was_told(steps):
    learner, groups = honest(optimizer_steps=steps)
    learner.update(groups, guard=True)
    taken = {float(t) for name, t in learner.tensors()["optimizer"].items() if name.endswith("/step")}
    assert taken == {float(steps)}


def test_each_optimizer_step_is_a_mean_over_its_own_pairs():
    """At rate 0, over many shuffles, the gradient of half of the pairs is that of all of them."""
    groups = draw_groups(adapted_policy())
    whole = gradient_of(adapted_policy(), groups, rate=0.0)
    options = {"optimizer_steps": 2, "rate": 0.0, "betas": (0.0, 0.99)}
    halves = torch.stack([gradient_of(adapted_policy(), groups, seed=seed, **options) for seed in range(30)])
    assert float(halves.mean(0) @ whole / whole.square().sum()) == pytest.approx(1.0, abs=0.2)


def test_the_order_of_pairs_is_a_function_of_seed_and_update():
    def weights(seed):
        learner, groups = honest(optimizer_steps=3, seed=seed)
        learner.update(groups, guard=True)
        return flat_weights(learner)

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


# Rate, average, going on


def test_the_rate_follows_the_schedule_from_update_to_update():
    policy = adapted_policy()
    rates = RateSchedule(rate=1e-2, warmup_updates=2, total_updates=4, final_share=0.0)
    learner = Learner(policy, replace(spec(), rates=rates))
    found, moved = [], []
    for index in range(5):
        before = flat_weights(learner)
        report = learner.update(draw_groups(policy, 1, first=index), guard=True)
        found.append(report.rate)
        moved.append(float((flat_weights(learner) - before).abs().max()))
    assert found == pytest.approx([0.005, 0.01, 0.01, 0.005, 0.0])
    assert moved[0] == pytest.approx(0.005, rel=0.01)  # Adam's first step is the rate itself
    assert moved[4] == 0.0


def test_the_average_follows_the_live_weights():
    learner, groups = honest(ema_decay=0.9)
    start = {name: tensor.clone() for name, tensor in learner.average.tensors.items()}
    learner.update(groups, guard=True)
    for name, live in learner.parameters.items():
        expected = start[name] * (2.0 / 11.0) + live.detach() * (9.0 / 11.0)
        torch.testing.assert_close(learner.average.tensors[name], expected)


def test_a_learner_goes_on_bit_equal_from_its_tensors():
    def updates(learner, first, last):
        for index in range(first, last):
            groups = draw_groups(learner.policy, 2, first=2 * index)
            learner.update(groups, guard=True)

    options = {"optimizer_steps": 2, "mode": "control_variate", "weight_decay": 0.01}
    straight = Learner(adapted_policy(), spec(**options))
    updates(straight, 0, 4)
    halted = Learner(adapted_policy(), spec(**options))
    updates(halted, 0, 2)
    saved = {kind: {n: t.clone() for n, t in tensors.items()} for kind, tensors in halted.tensors().items()}
    resumed = Learner(adapted_policy(seed=9), spec(**options))
    theirs = dict(halted.policy.network.named_parameters())
    for name, parameter in resumed.policy.network.named_parameters():
        if not parameter.requires_grad:  # the network under the adapter is the same in every worker
            parameter.copy_(theirs[name])
    resumed.load(saved, halted.updates_done)
    updates(resumed, 2, 4)
    assert fingerprint(resumed) == fingerprint(straight)


def test_holding_other_tensors_lasts_as_long_as_the_context():
    learner, _ = honest()
    before = fingerprint(learner)
    other = {name: p.detach() + 1.0 for name, p in learner.parameters.items()}
    with pytest.raises(KeyError), learner.holding(other):
        assert digest_tensors(trained_tensors(learner.policy.network)) == digest_tensors(other)
        raise KeyError
    assert fingerprint(learner) == before


# The report


def test_the_report_tells_what_was_consumed_and_how_it_was_rewarded():
    learner, groups = honest(mode="gae", credit=build_credit("gae", 1.0, 1.0, 0.0, "group"))
    values = np.arange(16.0).reshape(4, 4) * np.array([0.0, 1.0, 2.0, 3.0])
    groups[0] = with_values(groups[0], values)
    groups[1] = with_values(groups[1], np.ones((4, 4)))
    groups[2] = replace(groups[2], rewards=(rewards_of(values + 1.0),))
    report = learner.update(groups, guard=True)
    assert report.update == 1
    assert report.consumed == (0, 1, 2)
    assert report.images == 12
    statistics = report.rewards["brightness"]
    assert statistics.mean == pytest.approx((2.0 * values.mean(axis=0) + 2.0) / 3.0)
    assert statistics.spread == pytest.approx(2.0 * values.std(axis=0) / 3.0)
    assert statistics.zero_spread == pytest.approx([1.0, *[1.0 / 3.0] * 3])
    assert report.skipped_fraction == pytest.approx(1.0 / 3.0)
    assert set(report.advantage_std) == {0, 1, 2}
