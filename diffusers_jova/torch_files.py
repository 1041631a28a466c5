"""Tensors of files that torch wrote, without running the code that a pickle may name."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


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
