"""Networks of transformers in folders of the user, each refused where it is another than it should be."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig

from jova_cli.parser import one_line
from jova_cli.tables import some


FloatArray = npt.NDArray[np.floating]
Part = TypeVar("Part")
UNREADABLE = (OSError, KeyError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Wanted:
    """What a folder must hold.

    Attributes:
        option: That names the folder.
        classes: Of transformers, by the `model_type` of their `config.json`; empty for a network of another package.
        name: For a sentence.
        example: On the Hub.
        unread: Beginnings of the names of weights that the measure does not read.
    """

    option: str
    classes: dict[str, Any]
    name: str
    example: str
    unread: tuple[str, ...] = ()

    def refusal(self, folder: Path, found: str) -> ValueError:
        """The one sentence."""
        reader = " that transformers reads" if self.classes else ""
        return ValueError(
            f"`{self.option}` must be the folder of {self.name}{reader}, got {found} in `{folder}`; "
            f"download {'one, such as ' if self.classes else ''}{self.example}"
        )

    def read(self, folder: Path, reader: Callable[[Path], Part]) -> Part:
        """Read a part of the folder.

        Raises:
            ValueError: The one sentence, if the reader fails.
        """
        try:
            return reader(folder)
        except UNREADABLE as error:
            raise self.refusal(folder, f"an error ({_reason(error)})") from error


def read_network(folder: Path, wanted: Wanted, device: str = "cpu") -> Any:
    """Read a network in float32; no code of the folder is run, nothing is downloaded.

    Args:
        folder: As `save_pretrained` of transformers writes it.
        wanted: What it must hold.
        device: Where it runs.

    Raises:
        ValueError: If the folder holds another network, or part of one, or one with NaN or infinity.
    """
    config = wanted.read(folder, lambda path: AutoConfig.from_pretrained(path, local_files_only=True))
    if config.model_type not in wanted.classes:
        raise wanted.refusal(folder, f"another network, {config.model_type},")
    options = {"local_files_only": True, "output_loading_info": True, "dtype": torch.float32}
    network_class = wanted.classes[config.model_type]
    network, loaded = wanted.read(folder, lambda path: network_class.from_pretrained(path, config=config, **options))
    _check_whole(folder, wanted, network, sorted(map(str, loaded["missing_keys"])))
    return network.to(device).eval().requires_grad_(False)


def _check_whole(folder: Path, wanted: Wanted, network: Any, missing: Sequence[str]) -> None:
    """Refuse weights that were not there, and would be random, and those that are no numbers."""
    if lacking := [name for name in missing if not name.startswith(wanted.unread)]:
        raise wanted.refusal(folder, f"no weights for {some(lacking)}")
    strange = [name for name, tensor in network.named_parameters() if not torch.isfinite(tensor).all()]
    if strange:
        raise wanted.refusal(folder, f"NaN or infinity in {some(strange)}")


def _reason(error: Exception) -> str:
    """The first sentence of an error, behind which advice for programmers follows."""
    return one_line(error).partition(". ")[0].rstrip(".")


def as_numbers(embeddings: Tensor) -> FloatArray:
    """Embeddings as numbers that add up exactly enough."""
    return np.asarray(embeddings.cpu().double().numpy())


def unit(vectors: FloatArray) -> FloatArray:
    """The directions of vectors, one or more."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
