from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from learner.optimizer import RateSchedule, build_adamw, load_optimizer_tensors, optimizer_tensors

NAMES = ["a", "b"]


def test_the_rate_rises_linearly_then_falls_as_a_cosine_to_its_final_share():
    rates = RateSchedule(rate=1.0, warmup_updates=4, total_updates=14, final_share=0.2)
    assert [rates.at(update) for update in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates.at(4) == pytest.approx(1.0)
    assert rates.at(9) == pytest.approx(0.6)
    assert rates.at(14) == rates.at(1000) == pytest.approx(0.2)


def test_without_a_final_share_the_rate_stays():
    rates = RateSchedule(rate=0.3, warmup_updates=0, total_updates=5)
    assert {rates.at(update) for update in range(20)} == {0.3}


@given(st.integers(0, 30), st.integers(1, 60), st.floats(0.0, 1.0))
def test_the_rate_never_leaves_its_bounds_and_never_rises_after_the_warm_up(warmup, total, final):
    rates = RateSchedule(rate=2.0, warmup_updates=warmup, total_updates=total, final_share=final)
    values = [rates.at(update) for update in range(100)]
    assert all(0.0 <= value <= 2.0 for value in values)
    assert all(value > 0.0 for value in values[:warmup])
    after = values[warmup:]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after))


def parameters():
    return [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([[3.0]]))]


def step(optimizer, tensors, seed, decay_only=False):
    generator = torch.Generator().manual_seed(seed)
    for tensor in tensors:
        tensor.grad = torch.zeros_like(tensor) if decay_only else torch.randn(tensor.shape, generator=generator)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()


def test_an_optimizer_without_a_rate_changes_nothing():
    tensors = parameters()
    optimizer = build_adamw(tensors, 0.5, (0.9, 0.99))
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    assert [tensor.tolist() for tensor in tensors] == [[1.0, 2.0], [[3.0]]]


def test_weight_decay_and_moments_are_adamws():
    tensors = parameters()
    optimizer = build_adamw(tensors, 0.5, (0.9, 0.99))
    step(optimizer, tensors, 0, decay_only=True)
    assert tensors[0].tolist() == pytest.approx([0.95, 1.9])
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)


def test_an_optimizer_goes_on_bit_equal_from_its_tensors():
    straight, halted, resumed = parameters(), parameters(), parameters()
    whole, first, second = (build_adamw(tensors, 0.01, (0.9, 0.99)) for tensors in (straight, halted, resumed))
    for seed in range(4):
        step(whole, straight, seed)
    for seed in range(2):
        step(first, halted, seed)
    with torch.no_grad():
        for tensor, saved in zip(resumed, halted, strict=True):
            tensor.copy_(saved)
    saved = optimizer_tensors(first, NAMES)
    assert set(saved) == {f"{name}/{key}" for name in NAMES for key in ("step", "exp_avg", "exp_avg_sq")}
    load_optimizer_tensors(second, NAMES, saved)
    for seed in range(2, 4):
        step(second, resumed, seed)
    for one, other in zip(straight, resumed, strict=True):
        assert torch.equal(one, other)


def test_before_its_first_step_an_optimizer_has_no_tensors():
    optimizer = build_adamw(parameters(), 0.0, (0.9, 0.99))
    assert optimizer_tensors(optimizer, NAMES) == {}
    load_optimizer_tensors(optimizer, NAMES, {})


def test_saved_tensors_are_copies():
    tensors = parameters()
    optimizer = build_adamw(tensors, 0.0, (0.9, 0.99))
    step(optimizer, tensors, 0)
    saved = optimizer_tensors(optimizer, NAMES)
    before = saved["a/exp_avg"].clone()
    step(optimizer, tensors, 1)
    assert torch.equal(saved["a/exp_avg"], before)
