"""Adapters that are taken out of a transformer: what must be so before, and that plain layers are left.

=================  ==========================  ================================  =============================
an adapter is      `delete_adapters`           `unload_lora`                     `save_pretrained`
=================  ==========================  ================================  =============================
beside weights     takes it out                takes all out                     refused: no loader knows them
merged into them   refused: it would stay      keeps it in them, for good        refused; unload first
=================  ==========================  ================================  =============================
"""

from collections.abc import Collection

from diffusers.utils import logging
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .adapter_keys import listed


logger = logging.get_logger(__name__)


def tuner_layers(model: nn.Module) -> list[BaseTunerLayer]:
    """The layers that adapters lie over."""
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the adapters of a model, merged ones too."""
    return [*dict.fromkeys([*getattr(model, "peft_config", {}), *merged_adapters(model)])]


def merged_adapters(model: nn.Module) -> list[str]:
    """Names of the adapters that are part of the weights and whose layers are still there."""
    return [*dict.fromkeys(name for layer in tuner_layers(model) for name in layer.merged_adapters)]


def check_deletable(model: nn.Module, names: Collection[str]) -> None:
    """Refuse to delete what is not there, or would stay in the weights.

    Raises:
        ValueError: An adapter is not loaded, or merged.
    """
    loaded = adapter_names(model)
    if strange := [name for name in names if name not in loaded]:
        raise ValueError(
            f"`adapter_names` must be of loaded adapters, got {listed(strange)}; there are {listed(loaded) or 'none'}"
        )
    if merged := [name for name in merged_adapters(model) if name in names]:
        raise ValueError(
            f"adapters must not be part of the weights when they are deleted, got {listed(merged)}; take them out by "
            "`unfuse_lora` before, or keep them there and unload all layers of adapters"
        )


def check_saveable(model: nn.Module, unload: str) -> None:
    """Refuse to save weights under the names that they have below adapters, which no loader knows.

    Args:
        model: The transformer.
        unload: Name of the method that leaves plain layers.

    Raises:
        ValueError: There are layers of adapters.
    """
    if tuner_layers(model):
        names = listed(adapter_names(model)) or "no name"
        raise ValueError(
            f"weights must be saved without layers of adapters, got those of {names}; save adapters by "
            f"`save_lora_adapter` of the transformer, and the weights after `{unload}`, which keeps in them what "
            "`fuse_lora` merged"
        )


def check_still_there(model: nn.Module, unloaded: Collection[str]) -> None:
    """Refuse to take out what nobody knows any more, where there is nothing else; beside others say that it stays.

    Args:
        model: The transformer.
        unloaded: Names of the adapters that were merged and whose layers are unloaded.

    Raises:
        ValueError: There are such ones alone.
    """
    if not unloaded:
        return
    if not merged_adapters(model):
        raise ValueError(
            f"`unfuse_lora` must come before the layers of adapters are unloaded, got {listed(sorted({*unloaded}))} "
            "in the weights alone; load the model again"
        )
    verb, whose = ("stays", "its") if len({*unloaded}) == 1 else ("stay", "their")
    logger.warning(f"{listed(sorted({*unloaded}))} {verb} in the weights, because {whose} layers are unloaded")
