"""Low-rank adapters (arXiv 2106.09685) through peft: attach one, switch it off by name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

ADAPTER = "policy"
"""The name of the trained adapter; others (a distillation adapter, say) keep theirs and stay on."""


def attach_adapter(network: nn.Module, targets: str, rank: int, alpha: float, seed: int) -> LoraConfig:
    """Freeze the network and put a LoRA of `rank` on every linear layer whose name matches the regular expression
    `targets`. The up matrices start at zero, so the network's output is unchanged; the down matrices are gaussian,
    a function of `seed`. Adapters that are active already stay so. Returns peft's config, which is saved beside the
    tensors.
    """
    active = {layer: list(layer.active_adapters) for layer in _adapted_layers(network)}
    linear = _linear_layers(network)
    names = [name for name in linear if re.search(targets, name)]
    if not names:
        raise ValueError(
            f"no linear layer matches {targets!r}; change `model.lora.targets`. Layers are named like {linear[:3]}"
        )
    network.requires_grad_(False)
    exactly = "|".join(re.escape(name) for name in names)  # a list would match every name that ends in one of these
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=exactly, init_lora_weights="gaussian")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    for parameter in network.parameters():
        if parameter.requires_grad:  # peft gives the adapter the network's dtype; half precision loses small updates
            parameter.data = parameter.data.float()
    layers = _adapted_layers(network)  # peft leaves the newest adapter alone active
    wanted = [active.get(layer, []) + ([ADAPTER] if ADAPTER in layer.lora_A else []) for layer in layers]
    _activate(layers, wanted, _gradients(layers))
    return config


def _adapted_layers(network: nn.Module) -> list[BaseTunerLayer]:
    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


def _linear_layers(network: nn.Module) -> list[str]:
    """Names of the network's own linear layers, with an adapter on them or not; an adapter's matrices are none."""
    modules = dict(network.named_modules())
    adapted = {name: module for name, module in modules.items() if isinstance(module, BaseTunerLayer)}
    inside = tuple(f"{name}." for name in adapted)
    own = {name: module for name, module in modules.items() if not name.startswith(inside)}
    own |= {name: layer.get_base_layer() for name, layer in adapted.items()}
    return [name for name, module in own.items() if isinstance(module, nn.Linear)]


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors under peft's names, without the adapter's own name in them."""
    state: dict[str, Tensor] = get_peft_model_state_dict(network, adapter_name=ADAPTER)
    return state


def adapter_config(network: nn.Module) -> dict[str, Any]:
    """Peft's configuration of the adapter as plain JSON, for the metadata of a saved file."""
    configs: Any = network.peft_config
    config: dict[str, Any] = configs[ADAPTER].to_dict()
    return config


def load_adapter_state(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy tensors under peft's names into the attached adapter. ValueError, before anything is written, where the
    names or shapes are not the adapter's.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in adapter_state(network).items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != found:
        odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))[0]
        raise ValueError(
            f"the adapter {source} does not fit: {odd} should be {expected.get(odd, 'absent')}, is "
            f"{found.get(odd, 'absent')}; change `model.lora` or `model.init_adapter`"
        )
    set_peft_model_state_dict(network, state, adapter_name=ADAPTER)


def has_adapter(network: nn.Module) -> bool:
    """Whether the trained adapter is attached."""
    return any(ADAPTER in layer.active_adapters for layer in _adapted_layers(network))


def computes_with_adapter(network: nn.Module) -> bool:
    """Whether the trained adapter takes part in what the network computes now: attached, and not within `reference`."""
    return any(ADAPTER in layer.active_adapters and not layer.disable_adapters for layer in _adapted_layers(network))


@contextmanager
def reference(network: nn.Module) -> Iterator[None]:
    """The reference policy: within the context the trained adapter is off and every other adapter stays on."""
    layers = _adapted_layers(network)
    active = [[] if layer.disable_adapters else list(layer.active_adapters) for layer in layers]
    gradients = _gradients(layers)
    _activate(layers, [[name for name in names if name != ADAPTER] for names in active], gradients)
    try:
        yield
    finally:
        _activate(layers, active, gradients)


def _gradients(layers: Sequence[BaseTunerLayer]) -> list[tuple[nn.Parameter, bool]]:
    return [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]


def _activate(
    layers: Sequence[BaseTunerLayer], names: Sequence[list[str]], gradients: Sequence[tuple[nn.Parameter, bool]]
) -> None:
    # set_adapter([]) is refused by peft, so "no adapter at all" is the layer's own off switch; neither call may
    # touch requires_grad: the set of trained tensors is read from it.
    for layer, wanted in zip(layers, names, strict=True):
        if layer.disable_adapters is bool(wanted):
            layer.enable_adapters(bool(wanted))
        if wanted and layer.active_adapters != wanted:
            layer.set_adapter(wanted)
    for parameter, requires_grad in gradients:
        parameter.requires_grad_(requires_grad)


class MergedAdapter:
    """The trained adapter, with those active beside it, folded into the weights it adapts, for sampling at the base
    model's cost.

    The base weights are kept aside, so that merging anew after each weights version never accumulates rounding. The
    network then computes (W + B A s) x where the learner computes W x + B (A x) s: equal to float32 rounding, which
    the ratio guard measures; half precision would round W + B A, so it is refused.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = [layer for layer in _adapted_layers(network) if ADAPTER in layer.lora_A]
        if any(layer.get_base_layer().weight.dtype != torch.float32 for layer in self._layers):
            raise ValueError("an adapter is merged in float32 only; set `fleet.merge_adapter: false`")
        self._base = [layer.get_base_layer().weight.detach().clone() for layer in self._layers]

    @torch.no_grad()
    def refresh(self) -> None:
        """Merge the adapter's present tensors. A merged layer computes nothing beside its weights, so whatever is
        active on it is merged.
        """
        for layer, base in zip(self._layers, self._base, strict=True):
            layer.get_base_layer().weight.copy_(base)
            layer.merged_adapters.clear()
            layer.merge(adapter_names=list(layer.active_adapters))
