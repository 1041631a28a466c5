"""Attention processors that users give: they must take what ours take, which others of diffusers do not."""

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers.models.attention import AttentionModuleMixin
from torch import nn


POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class JoVAProcessedAttention(AttentionModuleMixin):
    """Attention that refuses a processor of other arguments than those of `_default_processor_cls`."""

    def set_processor(self, processor: Any) -> None:
        """Set the processor, as `AttentionModuleMixin` does.

        Raises:
            ValueError: It takes other arguments than ours.
        """
        check_processor(self, processor)
        super().set_processor(processor)


def check_processors(model: nn.Module, given: Any) -> None:
    """Refuse processors of other arguments before the first one is set.

    Args:
        model: A transformer.
        given: One for all its attention, or one for each by its name.

    Raises:
        ValueError: Naming the first one, or the first layer that is given none.
    """
    layers = {
        f"{name}.processor": one for name, one in model.named_modules() if isinstance(one, JoVAProcessedAttention)
    }
    processors = given if isinstance(given, Mapping) else dict.fromkeys(layers, given)
    if lacking := [name for name in layers if name not in processors]:
        others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ValueError(
            f"a dict of attention processors must have one for each of {len(layers)} layers, got none for "
            f"`{lacking[0]}`{others}; begin with `attn_processors`, which has all"
        )
    for name, attention in layers.items():
        check_processor(attention, processors[name])


def check_processor(attention: JoVAProcessedAttention, processor: Any) -> None:
    """Refuse a processor that is not called by the names of ours, in their order; `*args` may stand for the last."""
    ours = type(attention)._default_processor_cls
    wanted = _names(ours.__call__)[1:]  # without self
    function = processor.forward if isinstance(processor, nn.Module) else processor
    found, takes_rest = (_names(function), _takes_rest(function)) if callable(function) else ([], False)
    if found != wanted and not (takes_rest and found == wanted[: len(found)]):
        raise ValueError(
            f"an attention processor of {type(attention).__name__} must take ({', '.join(wanted)}), got "
            f"{processor if inspect.isclass(processor) else type(processor).__name__} with ({', '.join(found)}); "
            f"derive it from `{ours.__name__}`"
        )


def _names(function: Any) -> list[str]:
    return [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind in POSITIONAL]


def _takes_rest(function: Any) -> bool:
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    return inspect.Parameter.VAR_POSITIONAL in kinds
