"""The device that a run takes."""

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
