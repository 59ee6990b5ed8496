import json

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from rollout.lora import (
    ADAPTER,
    MergedAdapter,
    adapter_config,
    adapter_state,
    attach_adapter,
    has_adapter,
    load_adapter_state,
    reference,
)
from rollout.trained import digest_tensors, trained_tensors
from tests.tiny_policies import TinyPolicy

# peft says so wherever an adapter joins another
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")

X, SIGMA, PROMPT = torch.randn(5, 2, 2, 3, generator=torch.Generator().manual_seed(0)), torch.ones(5), torch.ones(5, 2)


def output(network):
    with torch.no_grad():
        return network(X, SIGMA, PROMPT)


def adapted(seed=0, rank=2, alpha=3.0):
    """A network with an adapter that does something."""
    network = TinyPolicy().network
    attach_adapter(network, TinyPolicy.adapter_targets, rank, alpha, seed)
    shake(network, 5)
    return network


def shake(network, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained_tensors(network).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def distil(network, scale=0.3):
    """Add a second, frozen adapter, as a few-step distillation brings it."""
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=["inner"]), network, "distilled")
    with torch.no_grad():
        network.inner.lora_A["distilled"].weight.fill_(scale)
        network.inner.lora_B["distilled"].weight.fill_(scale)
    network.requires_grad_(False)
    return network


def distilled_and_adapted():
    network = distil(TinyPolicy().network)
    attach_adapter(network, TinyPolicy.adapter_targets, 2, 3.0, 0)
    shake(network, 5)
    return network


def test_a_fresh_adapter_leaves_the_output_unchanged():
    network = TinyPolicy().network
    before = output(network)
    attach_adapter(network, TinyPolicy.adapter_targets, 2, 3.0, 0)
    assert torch.equal(output(network), before)
    shake(network, 5)
    assert not torch.allclose(output(network), before)


def test_only_the_adapters_matrices_require_gradients():
    names = {name for name, p in adapted().named_parameters() if p.requires_grad}
    assert names == {f"{layer}.lora_{side}.{ADAPTER}.weight" for layer in ("inner", "outer") for side in ("A", "B")}


def test_an_adapter_is_a_function_of_its_seed_and_leaves_the_global_generator_alone():
    def attached(seed):
        network = TinyPolicy().network
        attach_adapter(network, TinyPolicy.adapter_targets, 2, 3.0, seed)
        return digest_tensors(trained_tensors(network))

    before = torch.random.get_rng_state()
    assert attached(1) == attached(1) != attached(2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_targets_choose_layers_by_their_whole_name():
    network = nn.ModuleDict({"proj": nn.Linear(2, 2), "block": nn.ModuleDict({"proj": nn.Linear(2, 2)})})
    attach_adapter(network, r"^proj$", 1, 1.0, 0)
    assert {name.rpartition(".lora_")[0] for name in trained_tensors(network)} == {"proj"}


def test_targets_that_match_nothing_are_refused_with_names_to_choose_from():
    with pytest.raises(ValueError, match=r"'nothing'; change `model.lora.targets`.*\['inner', 'outer'\]"):
        attach_adapter(TinyPolicy().network, "nothing", 2, 2.0, 0)


def test_has_adapter_tells_whether_there_is_one():
    assert has_adapter(adapted())
    assert not has_adapter(TinyPolicy().network)
    assert not has_adapter(distil(TinyPolicy().network))


def test_the_reference_is_exactly_the_network_without_its_adapter():
    network = adapted()
    with reference(network):
        assert torch.equal(output(network), output(TinyPolicy().network))


@pytest.mark.parametrize("build", [adapted, distilled_and_adapted])
def test_leaving_the_reference_restores_output_and_gradients(build):
    network = build()
    before, grads = output(network), [p.requires_grad for p in network.parameters()]
    with pytest.raises(KeyError), reference(network):
        raise KeyError
    assert torch.equal(output(network), before)
    assert [p.requires_grad for p in network.parameters()] == grads


def test_inside_the_reference_the_set_of_trained_tensors_is_unchanged():
    network = adapted()
    names = list(trained_tensors(network))
    with reference(network):
        assert list(trained_tensors(network)) == names


def test_a_reference_within_a_reference_leaves_the_outer_one_in_force():
    network = adapted()
    with reference(network):
        with reference(network):
            pass
        assert torch.equal(output(network), output(TinyPolicy().network))


def test_a_second_adapter_stays_on_and_frozen_beside_the_trained_one():
    network = distil(TinyPolicy().network)
    before = output(network)
    attach_adapter(network, TinyPolicy.adapter_targets, 2, 3.0, 0)
    torch.testing.assert_close(output(network), before)
    assert list(trained_tensors(network)) == list(trained_tensors(adapted()))


def test_a_second_adapter_stays_on_inside_the_reference():
    network = distilled_and_adapted()
    with reference(network):
        torch.testing.assert_close(output(network), output(distil(TinyPolicy().network)))
    assert not torch.allclose(output(distil(TinyPolicy().network)), output(TinyPolicy().network))


@pytest.mark.parametrize("build", [adapted, distilled_and_adapted])
def test_a_merged_adapter_computes_what_the_unmerged_one_does(build):
    network, merged = build(), build()
    MergedAdapter(merged).refresh()
    torch.testing.assert_close(output(merged), output(network), atol=1e-5, rtol=0)


def test_merging_again_never_accumulates_and_follows_the_adapter():
    network, merged = adapted(), adapted()
    fold = MergedAdapter(merged)
    fold.refresh()
    once = merged.inner.get_base_layer().weight.clone()
    for _ in range(20):
        fold.refresh()
    assert torch.equal(merged.inner.get_base_layer().weight, once)
    shake(network, 6)
    shake(merged, 6)
    fold.refresh()
    torch.testing.assert_close(output(merged), output(network), atol=1e-5, rtol=0)
    assert digest_tensors(trained_tensors(merged)) == digest_tensors(trained_tensors(network))


def test_a_half_precision_network_is_not_merged():
    with pytest.raises(ValueError, match=r"float32 only; set `fleet\.merge_adapter: false`"):
        MergedAdapter(adapted().to(torch.bfloat16))


def test_an_adapters_state_goes_into_another_network():
    source, target = adapted(seed=1), adapted(seed=2)
    assert not torch.allclose(output(source), output(target))
    load_adapter_state(target, {k: v.clone() for k, v in adapter_state(source).items()}, "here")
    assert torch.equal(output(source), output(target))


@pytest.mark.parametrize("spoil", [{"unknown": torch.zeros(1)}, {"outer.lora_B.weight": torch.zeros(1)}])
def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_written(spoil):
    network = adapted(seed=2)
    before = digest_tensors(trained_tensors(network))
    with pytest.raises(ValueError, match=rf"adapter there does not fit: {next(iter(spoil))} should be"):
        load_adapter_state(network, {**adapter_state(adapted(seed=1)), **spoil}, "there")
    assert digest_tensors(trained_tensors(network)) == before


def test_the_adapters_configuration_is_plain_json():
    config = adapter_config(adapted(rank=2, alpha=3.0))
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 3.0, "inner|outer")
    assert json.loads(json.dumps(config)) == config
