"""One adapter in the place of another (`hotswap`), which a compiled model takes without being compiled again.

peft swaps plain LoRA alone, and only where it meets the same layers. What it refuses midway it leaves without either
adapter, in a model of several it empties the others, and it forgets the weight of the adapter as well as the rank and
alpha that later weights and files go by. So what cannot be swapped is refused before, and the rest is put right.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from .adapter_keys import MATRIX_A, listed


DECISIVE = {"use_rslora": False, "lora_dropout": 0.0, "alpha_pattern": {}}  # for peft; its defaults
PATTERNS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")  # of a config, that say how strong an adapter is
PART = re.compile(r"(\.lora_[AB])(\.\w+)$")  # what peft swaps: the matrices, and a bias of the second
OF_ADAPTER = re.compile(r"\.lora_\w+\.([^.]+)(\.\w+)?$")


class AdapterSwapError(ValueError, RuntimeError):
    """An adapter cannot take the place of another; peft's own error is a RuntimeError."""


@contextmanager
def swapped_alone(
    model: nn.Module, adapter_name: str, tensors: Mapping[str, Tensor], fields: Mapping[str, Any] | None
) -> Iterator[None]:
    """Let one adapter change while the block swaps it; it keeps its weight.

    Args:
        model: The transformer.
        adapter_name: Of the adapter that is loaded.
        tensors: Of the one that takes its place, by `<module>.<part>`.
        fields: Of its `LoraConfig`; None for LoKr.

    Raises:
        AdapterSwapError: It cannot take that place; nothing has changed then.
    """
    check_swap(model, adapter_name, tensors, fields)
    layers = layers_of(model, adapter_name)
    weighed = {name: weight_of(layer, adapter_name) for name, layer in layers}
    others = {place: weight.detach().clone() for place, weight in lora_weights(model) if place[0] != adapter_name}
    yield
    with torch.no_grad():
        for place, weight in lora_weights(model):
            if place in others:
                weight.copy_(others[place])
    for name, layer in layers:
        if (matrix := tensors.get(f"{name}.{MATRIX_A}")) is not None:  # otherwise it is empty now
            layer.r[adapter_name] = len(matrix)
            layer.lora_alpha[adapter_name] = float(layer.scaling[adapter_name]) * len(matrix)
            layer.scaling[adapter_name] *= weighed[name]
    config: Any = model.peft_config[adapter_name]  # type: ignore[index]
    for field in PATTERNS:
        setattr(config, field, (fields or {})[field])


def layers_of(model: nn.Module, adapter_name: str) -> list[tuple[str, Any]]:
    """Layers that an adapter changes, with their names, in a model that may be compiled."""
    return [
        (name.replace("_orig_mod.", ""), module)
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer) and adapter_name in getattr(module, "lora_A", {})
    ]


def weight_of(layer: Any, adapter_name: str) -> float:
    """The weight of a plain adapter in a layer; 1 where its alpha is 0, which every weight leaves."""
    own_scale = layer.lora_alpha[adapter_name] / layer.r[adapter_name]
    return float(layer.scaling[adapter_name]) / own_scale if own_scale else 1.0


def lora_weights(model: nn.Module) -> Iterator[tuple[tuple[str, str], nn.Parameter]]:
    """Weights of all adapters, by the adapter's name and their own."""
    for name, weight in model.named_parameters():
        if found := OF_ADAPTER.search(name):
            yield (found[1], name), weight


def check_swap(
    model: nn.Module, adapter_name: str, tensors: Mapping[str, Tensor], fields: Mapping[str, Any] | None
) -> None:
    """Refuse what peft does not swap; arguments as in `swapped_alone`."""
    instead = f"load it under a name of its own, or delete {adapter_name!r} first"
    if fields is None:
        raise AdapterSwapError(f"`hotswap` must be given plain LoRA, got LoKr; {instead}")
    there = {name.replace("_orig_mod.", "") for (owner, name), _ in lora_weights(model) if owner == adapter_name}
    places = {name: PART.sub(lambda part: f"{part[1]}.{adapter_name}{part[2]}", name) for name in tensors}
    if strange := [name for name, place in places.items() if place not in there]:
        raise AdapterSwapError(
            f"`hotswap` must bring plain LoRA, of weights that {adapter_name!r} has, too, got {listed(strange)}; "
            f"{instead}"
        )
    loaded: Any = model.peft_config[adapter_name]  # type: ignore[index]
    for name, default in DECISIVE.items():
        was, new = getattr(loaded, name, default), fields.get(name, default)
        if was != new:
            raise AdapterSwapError(
                f"`hotswap` must bring an adapter with the `{name}` of {adapter_name!r}, {was}, got {new}; {instead}"
            )
