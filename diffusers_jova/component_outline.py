"""A component of a pipeline without its weights, from its config alone: what shapes, rates and statistics tell."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch


def component_class(library: str, class_name: str) -> Any:
    """Class of a component, by library and name as `DiffusionPipeline` stores them."""
    if hasattr(diffusers.pipelines, library):  # a pipeline's own component, such as a vocoder
        return getattr(getattr(diffusers.pipelines, library), class_name)
    return getattr(import_module(library), class_name)


def build_outline(entry: Sequence[str], folder: Path) -> Any:
    """Build a component on the meta device.

    Args:
        entry: Library and name of its class, as `model_index.json` states them.
        folder: With its config.
    """
    library, class_name = entry
    cls = component_class(library, class_name)
    with torch.device("meta"):
        if hasattr(cls, "config_class"):  # of transformers
            return cls(cls.config_class.from_pretrained(folder))
        return cls.from_config(cls.load_config(folder))
