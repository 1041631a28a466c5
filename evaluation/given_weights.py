"""Files of weights of the user for networks of this package: another network's are refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from jova_cli.tables import some


def check_weights(
    path: Path, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str, advice: str
) -> None:
    """Refuse weights with other names or shapes than a network has, and those that are no numbers.

    Args:
        path: Of the file.
        given: What it holds.
        wanted: What the network has.
        name: Of the network.
        advice: Which file to give.

    Raises:
        ValueError: If the weights are another network's, or not finite.
    """
    faults = [f"no {key}" for key in wanted if key not in given]
    faults += [f"{key} beyond them" for key in given if key not in wanted]
    faults += [
        f"{key} of {list(given[key].shape)} in place of {list(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    if faults:
        raise ValueError(f"`{path}` must be the weights of {name}, got another network's ({some(faults)}); {advice}")
    if strange := [key for key, tensor in given.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(
            f"`{path}` must hold finite weights, got NaN or infinity in {some(strange)}; download it again"
        )
