"""In which number format each component of a pipeline is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel


CODECS = ("vae", "audio_vae", "vocoder")  # in bfloat16 they lose what the transformer never will: the sound


def component_dtypes(dtype: torch.dtype | Mapping[str, Any] | str | None) -> dict[str, torch.dtype]:
    """Formats by component for `DiffusionPipeline.from_pretrained`: float32 for whatever is not named.

    Args:
        dtype: Of everything but the codecs; or formats by component, `"default"` for those that it does not name; None
            for float32. `"bfloat16"` is `torch.bfloat16`.

    Raises:
        ValueError: It is no format of floats: diffusers would load float32 instead.
    """
    named = dtype if isinstance(dtype, Mapping) else {"default": torch.float32 if dtype is None else dtype}
    formats = {name: checked_format(value) for name, value in named.items()}
    return {**dict.fromkeys(("default", *CODECS), torch.float32), **formats}


def checked_format(value: Any) -> torch.dtype:
    """A format of floats, also by its name."""
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(
            f"`dtype` must be a format of floats, got {value!r}; give torch.bfloat16, or a dict of them by component; "
            "`torch_dtype` is its older name"
        )
    return found


def check_named_components(dtype: Any, names: Sequence[str]) -> None:
    """Refuse formats for components that a pipeline does not have: the one that is meant would stay in float32.

    Args:
        dtype: As in `component_dtypes`.
        names: Of the components.
    """
    if not isinstance(dtype, Mapping):
        return
    if strange := [name for name in dtype if name not in ("default", *names)]:
        raise ValueError(
            f"`dtype` must name components, {', '.join(names)}, or `default`, got {strange}; correct the spelling"
        )


def component_dtype(dtype: torch.dtype | Mapping[str, Any] | str | None, name: str) -> torch.dtype:
    """The format in which `component_dtypes` lets one component be loaded.

    Args:
        dtype: As in `component_dtypes`.
        name: Of the component.
    """
    formats = component_dtypes(dtype)
    return formats.get(name, formats["default"])


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
