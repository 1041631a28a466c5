"""Factors of adapters besides their own weights: for one forward (`attention_kwargs`), and for a merge."""

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any, TypeVar

from diffusers.utils import logging
from torch import nn

from .adapter_removal import tuner_layers


logger = logging.get_logger(__name__)

MOST = 100  # times what two matrices add; sliders take up to about 10, and at 100 clips of jova-tiny are noise
Forward = TypeVar("Forward", bound=Callable[..., Any])


def factor_of(arguments: Mapping[str, Any]) -> Any:
    """The factor of adapters that the arguments of a call or of a forward hold by name; 1 without."""
    given = arguments.get("attention_kwargs")
    return given.get("scale", 1.0) if isinstance(given, Mapping) else 1.0


def with_adapter_scale(forward: Forward) -> Forward:
    """Let a forward multiply all adapters by `scale` of its `attention_kwargs`; they are weighed as before after it.

    Instead of `apply_lora_scale` of diffusers, which divides again, and behind a factor of 0 forgets their weights.
    """

    @wraps(forward)
    def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (scale := factor_of(kwargs)) == 1:
            return forward(self, *args, **kwargs)
        before = [(layer, layer.scaling) for layer in tuner_layers(self)]
        try:
            for layer, weights in before:
                layer.scaling = {name: weight * scale for name, weight in weights.items()}
            return forward(self, *args, **kwargs)
        finally:
            for layer, weights in before:
                layer.scaling = weights

    return scaled  # type: ignore[return-value]


def scale_adapters(model: nn.Module, names: Collection[str], scale: float) -> None:
    """Weigh some adapters, merged by nothing yet, by a factor besides their own weights."""
    for layer in tuner_layers(model):
        for name in names:
            if name in layer.scaling:
                layer.scaling[name] *= scale


def warn_of_large_scales(model: nn.Module, factor: float = 1.0) -> None:
    """Say of active adapters that nothing but they would be left of the weights; their signs are free.

    Args:
        model: A transformer.
        factor: Besides their own weights.
    """
    scales = {
        name: scale * factor
        for layer in tuner_layers(model)
        for name, scale in layer.scaling.items()
        if name in layer.active_adapters and abs(scale * factor) > MOST
    }
    for name, scale in scales.items():
        logger.warning(
            f"the adapter `{name}` counts {scale:g} times, its scale times alpha / rank: beyond {MOST} times noise is "
            "most of what is left of a clip; 1 is usual"
        )


def scaled_weight(weight: Any, scale: float) -> Any:
    """The weight of an adapter, a number or numbers by parts of names, times a factor."""
    if isinstance(weight, Mapping):
        return {part: scaled_weight(value, scale) for part, value in weight.items()}
    return weight * scale
