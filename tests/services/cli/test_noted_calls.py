import pytest
import torch

from learner.loss import Objective
from learner.update import Learner
from rollout.lora import reference
from services.cli.noted_calls import make_again, noted_calls
from tests.tiny_groups import adapted_policy, behaviour, draw_group, draw_groups, fingerprint, spec


def test_drawing_a_group_is_one_call_a_step_without_gradient() -> None:
    policy = adapted_policy()
    calls = noted_calls(policy.network, lambda: draw_group(policy, 0, how=behaviour(num_steps=4)))
    assert [(call.with_gradient, call.adapted) for call in calls] == [(False, True)] * 4


def test_an_update_with_a_kl_calls_the_reference_too() -> None:
    groups = draw_groups(adapted_policy(), 2)  # 2 groups of 4 samples with 3 transitions
    learner = Learner(adapted_policy(), spec(objective=Objective(kl_weight=0.1), micro_batch=12))
    calls = noted_calls(learner.policy.network, lambda: learner.update(groups, guard=False))
    assert [(call.with_gradient, call.adapted) for call in calls] == [(True, True), (False, False)] * 2


def test_calls_that_are_made_again_are_the_same_calls_and_leave_nothing() -> None:
    groups = draw_groups(adapted_policy(), 2)
    learner = Learner(adapted_policy(), spec(objective=Objective(kl_weight=0.1)))
    calls = noted_calls(learner.policy.network, lambda: learner.update(groups, guard=False))
    before = fingerprint(learner)
    again = noted_calls(learner.policy.network, lambda: make_again(learner.policy.network, calls))
    assert sorted((c.with_gradient, c.adapted) for c in again) == sorted((c.with_gradient, c.adapted) for c in calls)
    first = next(call for call in again if call.adapted)
    assert all(torch.equal(a, b) for a, b in zip(calls[0].arguments, first.arguments, strict=True))
    assert fingerprint(learner) == before
    assert all(parameter.grad is None for parameter in learner.parameters.values())


def test_what_fails_is_not_noted_any_longer() -> None:
    policy = adapted_policy()

    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        noted_calls(policy.network, fail)
    assert not policy.network._forward_pre_hooks
    with reference(policy.network):
        assert noted_calls(policy.network, lambda: draw_group(policy, 0))[0].adapted is False
