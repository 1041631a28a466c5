"""A component of a pipeline without its weights, from its config alone: what shapes, rates and statistics tell."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin, pipelines
from diffusers.utils.torch_utils import unwrap_module

from .number_formats import cast_weights


with torch.device(
    "meta"
):  # torch lists what it builds there at the first use; transformers replaces some while it loads
    torch.empty(0)


def component_class(library: str, class_name: str) -> Any:
    """Class of a component, by library and name as `DiffusionPipeline` stores them."""
    if hasattr(pipelines, library):  # a pipeline's own component, such as a vocoder
        return getattr(getattr(pipelines, library), class_name)
    return getattr(import_module(library), class_name)


def build_outline(entry: Sequence[str], folder: Path) -> Any:
    """Build a component on the meta device, a scheduler as it is.

    Args:
        entry: Library and name of its class, as `model_index.json` states them.
        folder: With its config.
    """
    library, class_name = entry
    cls = component_class(library, class_name)
    if issubclass(cls, SchedulerMixin):
        return cls.from_pretrained(folder)
    with torch.device("meta"):
        if hasattr(cls, "config_class"):  # of transformers
            return cls(cls.config_class.from_pretrained(folder))
        return cls.from_config(cls.load_config(folder))


def outline_of_loaded(component: Any) -> Any:
    """A loaded component once more, on the meta device, in its number formats but without adapters and hooks."""
    plain = unwrap_module(component)
    cls = type(plain)
    with torch.device("meta"):
        outline = cls.from_config(plain.config) if hasattr(cls, "from_config") else cls(plain.config)
    cast_weights(outline, plain.dtype)
    return outline
