"""In which number format each component of a pipeline is loaded."""

from collections.abc import Mapping
from typing import Any

import torch


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
