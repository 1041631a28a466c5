"""The device that a run takes."""

from typing import Any

import torch


def choose_device(name: str | None) -> torch.device:
    """The device that is asked for, or the fastest there is."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"`--device` must be a device of this machine, got {name}; leave it out or use cpu"
        ) from error
    return torch.device(name)


def device_named(argument: str, value: Any) -> torch.device:
    """The device of a name, such as `"cuda:1"`, whether or not this machine has it.

    Raises:
        ValueError: torch knows no such kind of device.
    """
    try:
        return torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'`{argument}` must be a device of torch, got {value!r}; write "cpu" or "cuda:0", say'
        ) from error
