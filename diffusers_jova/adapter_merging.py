"""Adapters that become part of the weights: which ones, what they weigh there, and what is refused meanwhile.

While one is merged, peft reads no other in its layers, and weighs it anew when it takes it out: what would change
adapters waits until then.
"""

from collections.abc import Collection

from diffusers.utils import logging
from torch import nn

from .adapter_keys import listed
from .adapter_removal import adapter_names, merged_adapters, tuner_layers


logger = logging.get_logger(__name__)


def check_unmerged(model: nn.Module, what: str) -> None:
    """Refuse to change adapters while one is merged: peft would leave the others unread, or take that one out again.

    Args:
        model: The transformer.
        what: Is done with adapters, for the message.

    Raises:
        ValueError: One is.
    """
    if merged := merged_adapters(model):
        raise ValueError(
            f"adapters must be {what} while none is merged, got {listed(merged)} from `fuse_lora`; call "
            "`unload_lora_weights` first, which leaves it in the weights, or `unfuse_lora`, which takes it out"
        )


def names_to_merge(model: nn.Module, given: Collection[str] | None) -> list[str]:
    """Adapters that `fuse_lora` adds to the weights: those that are given, or active; without those that are merged.

    Args:
        model: The transformer.
        given: Names; None for the active ones.

    Raises:
        ValueError: One is not loaded, there is none, or adapters are switched off.
    """
    layers = tuner_layers(model)
    if any(layer.disable_adapters for layer in layers):
        raise ValueError(
            "adapters must be switched on when they are merged, got switched off ones, which the next call would take "
            "out again; call `enable_lora` first"
        )
    loaded = adapter_names(model)
    names = [*given] if given is not None else [*dict.fromkeys(name for one in layers for name in one.active_adapters)]
    if isinstance(given, str) or not names or (strange := [name for name in names if name not in loaded]):
        found = repr(given) if isinstance(given, str) else listed(strange if names else []) or "none"
        raise ValueError(
            f"`adapter_names` must be a list of loaded adapters, got {found}; there are {listed(loaded) or 'none'}"
        )
    return [name for name in names if name not in merged_adapters(model)]


def warn_of_unread_adapters(model: nn.Module) -> None:
    """Say in one line which active adapters are not read because others are merged."""
    unread = {
        name: None
        for layer in tuner_layers(model)
        if layer.merged_adapters
        for name in layer.active_adapters
        if layer.scaling.get(name) and name not in layer.merged_adapters
    }
    if not unread:
        return
    num_read = sum(
        any(layer.scaling.get(name) for name in layer.active_adapters if name in unread)
        for layer in tuner_layers(model)
        if not layer.merged_adapters
    )
    rest = f"; until then, and until they are unloaded, they act in {num_read} layers that the merged one lacks"
    logger.warning(
        f"{listed([*unread])} {'is' if len(unread) == 1 else 'are'} not used where another adapter is merged: "
        f"merge all of them with `fuse_lora`{rest if num_read else ''}"
    )
