"""Tensors of files that torch wrote, without running the code that a pickle may name."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jova_cli.tables import some


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Map tensors of a torch file; a single `generator`, `state_dict` or `model` level is entered.

    Raises:
        ValueError: The pickle wants to run code, is damaged, or holds something that is not a tensor.
    """
    return state_dict_of(load_pickle(path), path)


def load_pickle(path: Path) -> Any:
    """Map what a torch file holds, tensors and plain values.

    Files older than torch 1.6 are read into memory.

    Raises:
        ValueError: The pickle wants to run code, or is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"`{path}` must hold tensors and nothing else, got a pickle that names code; "
            "it was not executed: get the file from its authors, as safetensors where they offer it"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"`{path}` must be a complete torch file, got {error}; download it again") from error


def state_dict_of(content: Any, path: Path) -> dict[str, Tensor]:
    """Tensors of a torch file by name.

    Raises:
        ValueError: It holds something else.
    """
    for level in ("generator", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(level), dict):
            content = content[level]
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"`{path}` must hold a state dict of tensors, got {type(content).__name__} with other values")
    return dict(content)


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
