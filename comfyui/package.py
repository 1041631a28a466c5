"""The package `diffusers_jova` as the nodes see it: imported when a node runs, never when ComfyUI starts.

Importing torch, diffusers and the package takes seconds, and another pack may have left versions that do not go
together. Every node is registered all the same, and says what to install once it runs.
"""

from importlib import import_module
from types import ModuleType


ADVICE = "run `pip install -U .` in its clone with the Python that runs ComfyUI, then start ComfyUI again"


class PackageMissingError(RuntimeError):
    """`diffusers_jova`, or something that it needs, cannot be imported."""


def jova(module: str = "") -> ModuleType:
    """A module of the package.

    Args:
        module: Its name below `diffusers_jova`; empty for the package itself.

    Raises:
        PackageMissingError: It cannot be imported; the message says what to do.
    """
    try:
        package = import_module("diffusers_jova")  # first: it makes diffusers' loaders know the classes
        return import_module(f"diffusers_jova.{module}") if module else package
    except Exception as error:  # a dependency of the wrong version fails in its own ways, while it is imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PackageMissingError(
            f"`diffusers_jova` must be installed to run JoVA nodes, got {reason}; {ADVICE}"
        ) from error
