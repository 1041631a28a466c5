"""Numbers at the door: in which format components are loaded, and what counts as a number in an argument."""

import math
import numbers
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


def whole_number(name: str, value: Any) -> int:
    """A count as an int; numpy's integers are, a bool, a text or a float is none.

    Raises:
        ValueError: Naming the argument.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    raise ValueError(f"`{name}` must be a whole number, got {value!r}; write it without quotes and without a point")


def finite_number(name: str, value: Any) -> float:
    """A finite real number as a float; a bool or a text is none.

    Raises:
        ValueError: Naming the argument.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"`{name}` must be a number, got {value!r}; write it without quotes")
    if not math.isfinite(value):
        raise ValueError(f"`{name}` must be finite, got {value}; leave it out for the model's own")
    return float(value)
