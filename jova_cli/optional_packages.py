"""Packages that an option needs and an installation may lack, looked for without importing them."""

import argparse
import sys
from importlib.util import find_spec


def is_installed(name: str) -> bool:
    """Whether a module can be found, without importing it."""
    try:
        return find_spec(name) is not None
    except ValueError:  # Python's word for a module that is there without a specification, and for None in its place
        return sys.modules.get(name) is not None


def check_installed(option: str, module: str, advice: str) -> None:
    """Refuse an option that needs what is not installed.

    Args:
        option: As it is written.
        module: That it needs.
        advice: How to get it.
    """
    if not is_installed(module):
        raise ValueError(f"`{option}` must have the package {module}, which is not installed; {advice}")


def of_extra(name: str) -> str:
    """How to get what an extra of the package brings."""
    return f"install the package with its extra `{name}`"


def check_cluster(args: argparse.Namespace) -> None:
    """Refuse to start without what a cluster needs; the words are right all the same."""
    if getattr(args, "ray", False):
        check_installed("--ray", "ray", of_extra("ray"))
