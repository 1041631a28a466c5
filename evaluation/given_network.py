"""Networks of transformers in folders of the user, each refused where it is another than it should be."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoProcessor

from jova_cli.parser import one_line
from jova_cli.tables import some


@dataclass(frozen=True)
class Wanted:
    """What a folder must hold.

    Attributes:
        option: That names the folder.
        classes: Of transformers, by the `model_type` of their `config.json`.
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
        return ValueError(
            f"`{self.option}` must be the folder of {self.name} that transformers reads, got {found} in `{folder}`; "
            f"download one, such as {self.example}"
        )


def read_network(folder: Path, wanted: Wanted, device: str = "cpu") -> tuple[Any, Any]:
    """Read a network in float32, and what makes its inputs; no code of the folder is run, nothing is downloaded.

    Args:
        folder: As `save_pretrained` of transformers writes it.
        wanted: What it must hold.
        device: Where it runs.

    Returns:
        The network, and its processor.

    Raises:
        ValueError: If the folder holds another network, or part of one, or one with NaN or infinity.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type not in wanted.classes:
            raise wanted.refusal(folder, f"another network, {config.model_type},")
        network, loaded = wanted.classes[config.model_type].from_pretrained(
            folder, config=config, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise wanted.refusal(folder, f"an error ({_reason(error)})") from error
    except ValueError as error:
        if str(error).startswith(f"`{wanted.option}`"):
            raise
        raise wanted.refusal(folder, f"an error ({_reason(error)})") from error
    _check_whole(folder, wanted, network, sorted(map(str, loaded["missing_keys"])))
    return network.to(device).eval().requires_grad_(False), processor


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
