"""In which number format each component of a pipeline is loaded."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel


CODECS = ("vae", "audio_vae", "vocoder")  # in bfloat16 they lose what the transformer never will: the sound


def component_dtypes(dtype: torch.dtype | Mapping[str, Any] | str | None) -> dict[str, Any] | str:
    """Formats by component for `DiffusionPipeline.from_pretrained`: float32 for whatever is not named.

    Args:
        dtype: Of everything but the codecs; or formats by component, `"default"` for those that it does not name; None
            for float32. A word of diffusers' own is passed on.
    """
    if isinstance(dtype, str):
        return dtype
    named = dict(dtype) if isinstance(dtype, Mapping) else {"default": dtype or torch.float32}
    return {**dict.fromkeys(("default", *CODECS), torch.float32), **named}


def component_dtype(dtype: torch.dtype | Mapping[str, Any] | str | None, name: str) -> torch.dtype | None:
    """The format in which `component_dtypes` lets one component be loaded; None for a word of diffusers' own.

    Args:
        dtype: As in `component_dtypes`.
        name: Of the component.
    """
    formats = component_dtypes(dtype)
    return None if isinstance(formats, str) else formats.get(name, formats["default"])


def cast_weights(model: Any, dtype: torch.dtype) -> None:
    """Cast all weights but those that `from_pretrained` keeps in float32: trained or counted is what is loaded.

    Args:
        model: Of diffusers or transformers.
        dtype: Of the others.
    """
    is_strict = isinstance(model, PreTrainedModel) and dtype != torch.float16  # whose other list is for float16 alone
    kept = {*(getattr(model, "_keep_in_fp32_modules_strict" if is_strict else "_keep_in_fp32_modules", None) or ())}
    for name, parameter in model.named_parameters():
        if kept.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(dtype)
