"""Modules of the rooms that need the standard library alone, imported without their package, which loads torch."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def import_alone(file: Path) -> ModuleType:
    """Import one file of a room by itself; what it defines is another object than what the package imports.

    Args:
        file: Of the module, which imports neither torch nor anything of `diffusers_jova`.

    Raises:
        ModuleNotFoundError: If it needs a package of an extra that is not installed.
    """
    name = f"{__package__}_alone_{file.parent.name}_{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look up the types of their fields
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
