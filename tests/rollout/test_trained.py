import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout.lora import attach_adapter
from rollout.trained import digest_tensors, load_tensors, train_everything, trained_tensors
from tests.tiny_policies import TinyPolicy

SMALL = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([[1, 2]], dtype=torch.int16)}


def frozen_network():
    return TinyPolicy().network.requires_grad_(False)


def test_full_fine_tuning_trains_every_parameter():
    network = frozen_network()
    assert trained_tensors(network) == {}
    train_everything(network)
    assert list(trained_tensors(network)) == ["inner.bias", "inner.weight", "outer.bias", "outer.weight"]


def test_an_adapter_is_all_that_is_trained():
    network = frozen_network()
    attach_adapter(network, "inner", 2, 2.0, 0)
    assert {name.split(".")[1] for name in trained_tensors(network)} == {"lora_A", "lora_B"}


@given(st.integers(0, 11), st.integers(0, 7))
def test_the_digest_changes_with_any_bit(byte, bit):
    changed = SMALL["a"].clone()
    changed.view(torch.uint8)[byte] ^= 1 << bit
    assert digest_tensors({**SMALL, "a": changed}) != digest_tensors(SMALL)


@pytest.mark.parametrize(
    "other",
    [
        {"c": SMALL["a"], "b": SMALL["b"]},
        {"a": SMALL["a"].view(3, 1), "b": SMALL["b"]},
        {"a": SMALL["a"].view(torch.int32), "b": SMALL["b"]},
        {"a": SMALL["a"]},
    ],
    ids=["name", "shape", "dtype", "absence"],
)
def test_the_digest_changes_with_name_shape_dtype_and_absence(other):
    assert digest_tensors(other) != digest_tensors(SMALL)


def test_the_digest_is_of_the_values_not_of_order_or_memory_layout():
    a = torch.arange(6.0).view(2, 3)
    laid_out_otherwise = a.t().contiguous().t()
    assert digest_tensors({"b": SMALL["b"], "a": a}) == digest_tensors({"a": laid_out_otherwise, "b": SMALL["b"]})


def test_the_digest_is_the_same_on_every_machine():
    expected = "c78465c037cc93d069c7f40cfda89c24cbf74ace5f975664c1aeba9e8844849c"
    assert digest_tensors(SMALL) == expected


def test_the_digest_reads_half_precision():
    half = {"a": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}
    assert digest_tensors(half) != digest_tensors({"a": torch.tensor([1.0, 2.5], dtype=torch.bfloat16)})


def test_loading_copies_into_the_live_parameters():
    source, target = TinyPolicy(1).network, TinyPolicy(2).network
    live = trained_tensors(target)
    load_tensors(target, {name: tensor.detach() for name, tensor in trained_tensors(source).items()})
    assert digest_tensors(live) == digest_tensors(trained_tensors(source))
    assert digest_tensors(live) != digest_tensors(trained_tensors(TinyPolicy(2).network))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors: tensors | {"unknown": torch.zeros(1)},
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "outer.weight"},
        lambda tensors: tensors | {"outer.weight": torch.zeros(1)},
    ],
    ids=["unknown", "missing", "shape"],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(spoil):
    source, target = TinyPolicy(1).network, TinyPolicy(2).network
    before = digest_tensors(trained_tensors(target))
    with pytest.raises(ValueError, match=r"do not fit.*(unknown|outer\.weight)"):
        load_tensors(target, spoil({name: tensor.detach() for name, tensor in trained_tensors(source).items()}))
    assert digest_tensors(trained_tensors(target)) == before
