"""In which number format each component of a pipeline is loaded."""

from collections.abc import Mapping
from typing import Any

import torch


CODECS = ("vae", "audio_vae", "vocoder")  # in bfloat16 they lose what the transformer never will: the sound


def component_dtypes(dtype: torch.dtype | Mapping[str, Any] | str) -> dict[str, Any] | str:
    """Formats by component for `DiffusionPipeline.from_pretrained`: the codecs are in float32 unless they are named.

    Args:
        dtype: Of everything but the codecs; or formats by component, `"default"` for those that it does not name. A
            word of diffusers' own is passed on.
    """
    if isinstance(dtype, str):
        return dtype
    named = dict(dtype) if isinstance(dtype, Mapping) else {"default": dtype}
    return {**dict.fromkeys(CODECS, torch.float32), **named}


def component_dtype(dtype: torch.dtype | Mapping[str, Any] | str | None, name: str) -> torch.dtype | None:
    """The format that `DiffusionPipeline.from_pretrained` would give one component; None for that of its file.

    Args:
        dtype: As in `component_dtypes`.
        name: Of the component.
    """
    if isinstance(dtype, Mapping):
        dtype = dtype.get(name, dtype.get("default"))
    return dtype if isinstance(dtype, torch.dtype) else None
