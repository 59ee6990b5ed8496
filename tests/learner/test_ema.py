import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.ema import Average


def live(value):
    return {"a": torch.full((2,), float(value)), "b": torch.tensor([[-float(value)]])}


def test_the_average_starts_at_the_live_tensors_and_is_not_them():
    tensors = live(1.0)
    average = Average(tensors, 0.9)
    tensors["a"].fill_(5.0)
    assert average.tensors["a"].tolist() == [1.0, 1.0]


@given(st.floats(0.0, 0.999), st.integers(1, 200))
def test_the_average_moves_by_one_minus_the_decay_and_faster_at_first(decay, update):
    average = Average(live(0.0), decay)
    average.follow(live(1.0), update)
    kept = min(decay, (1.0 + update) / (10.0 + update))
    assert float(average.tensors["a"][0]) == pytest.approx(1.0 - kept, abs=1e-6)
    assert float(average.tensors["b"][0, 0]) == pytest.approx(kept - 1.0, abs=1e-6)


def test_without_decay_the_average_is_the_live_tensors():
    average = Average(live(0.0), 0.0)
    average.follow(live(0.123), 1)
    assert torch.equal(average.tensors["a"], live(0.123)["a"])


def test_a_constant_stays_what_it_is():
    average = Average(live(0.3), 0.9)
    for update in range(1, 50):
        average.follow(live(0.3), update)
    assert torch.equal(average.tensors["a"], live(0.3)["a"])


def test_loading_copies():
    average, saved = Average(live(0.0), 0.9), live(2.0)
    average.load(saved)
    saved["a"].fill_(7.0)
    assert average.tensors["a"].tolist() == [2.0, 2.0]
