"""Checkpoints of a training run: safetensors and JSON, written whole or not at all, refused by another run.

A checkpoint is a folder `checkpoint-00001000` of `<part>.safetensors` files (weights, averages, optimizer) and one
`state.json`. Nothing random is stored: the trainer derives data order and noise from the seed and the step.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_jova.whole_files import COMPLETE_IS_KEPT, delete_whole, explained_full_disk, written_whole


Tensors = dict[str, Tensor]
CHECKPOINT_NAMES = "checkpoint-*"
CHECKPOINT = re.compile(r"checkpoint-(\d{8})")


def save_checkpoint(
    output_dir: Path,
    step: int,
    parts: Mapping[str, Tensors],
    state: Mapping[str, Any],
    header: dict[str, str] | None = None,
) -> Path:
    """Write one checkpoint; a crash, a kill or a full disk leaves the earlier ones and no half of this one.

    Args:
        output_dir: Folder that holds the run's checkpoints.
        step: Optimizer steps that were done.
        parts: Tensors of each file, by its name without extension.
        state: What `state.json` holds besides the step.
        header: What the header of each file says.
    """
    path = output_dir / f"checkpoint-{step:08d}"
    with explained_full_disk(path, kept_by_run(output_dir)):
        with written_whole(path) as partial:
            partial.mkdir(parents=True)
            for name, tensors in parts.items():
                contiguous = {k: tensor.contiguous() for k, tensor in tensors.items()}
                save_file(contiguous, partial / f"{name}.safetensors", metadata=header)
            (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
            for file in partial.iterdir():
                _flush(file)
        _flush(output_dir)
    return path


def latest_checkpoint(output_dir: Path) -> Path | None:
    """Find the newest complete checkpoint; what a kill left half-written has another name."""
    found = [path for path in output_dir.glob(CHECKPOINT_NAMES) if CHECKPOINT.fullmatch(path.name)]
    return max(found, default=None)


def kept_by_run(output_dir: Path) -> str:
    """What a run keeps where its disk is full, in words."""
    found = latest_checkpoint(output_dir)
    return f"the run continues from `{found.name}`" if found else COMPLETE_IS_KEPT


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Read the tensors of each part, on the CPU, and the contents of `state.json`."""
    try:
        parts: dict[str, dict[str, Any]] = {
            file.stem: dict(load_file(file)) for file in sorted(path.glob("*.safetensors"))
        }
        return parts, json.loads((path / "state.json").read_text())
    except Exception as error:
        raise ValueError(
            f"`{path}` must be a complete checkpoint, got {error}; delete it to use the one before"
        ) from error


def rotate(output_dir: Path, newest: Path, keep: int) -> None:
    """Delete all but ``keep`` checkpoints, each with one rename first, so that none is ever half there.

    Args:
        output_dir: Folder that holds the run's checkpoints.
        newest: The one just written; what lies beyond it is of an earlier run that was not continued.
        keep: How many stay.
    """
    found = sorted(path for path in output_dir.glob(CHECKPOINT_NAMES) if CHECKPOINT.fullmatch(path.name))
    own = [path for path in found if path <= newest]
    for path in (*own[:-keep], *found[len(own) :]):
        delete_whole(path)


def check_fingerprint(
    saved: Mapping[str, Any], current: Mapping[str, Any], path: Path, digests: Mapping[str, str] | None = None
) -> None:
    """Refuse to continue where a checkpoint belongs to a run of other settings, and name those that differ.

    Args:
        saved: What the checkpoint says.
        current: What it must say.
        path: Of the checkpoint.
        digests: Names of values that mean nothing to a reader, each with what to say where it differs.
    """
    saved, current = json.loads(json.dumps([saved, current]))  # tuples become lists, as in the file
    names = [name for name in sorted(current) if saved.get(name) != current[name]]
    if names:
        values = {name: f"is {_short(saved.get(name))} there and {_short(current[name])} here" for name in names}
        changes = ", ".join((digests or {}).get(name, f"`{name}` {values[name]}") for name in names)
        raise ValueError(
            f"`{path}` must come from a run with the same settings to be continued, but {changes}; restore the "
            "settings, choose another `output_dir`, or start afresh with `resume=false`"
        )


def pack(nested: Mapping[str, Any], separator: str = "/") -> tuple[Tensors, dict[str, Any]]:
    """Split nested dictionaries into tensors, for safetensors, and other values, for JSON, both by their path."""
    tensors: Tensors = {}
    values: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            inner_tensors, inner_values = pack(value, separator)
            tensors |= {f"{key}{separator}{name}": tensor for name, tensor in inner_tensors.items()}
            values |= {f"{key}{separator}{name}": inner for name, inner in inner_values.items()}
        elif isinstance(value, Tensor):
            tensors[key] = value.clone()  # safetensors takes no shared memory, which 8-bit optimizers have
        else:
            values[key] = value
    return tensors, values


def unpack(tensors: Mapping[str, Tensor], values: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """Undo `pack`."""
    nested: dict[str, Any] = {}
    for path, value in {**tensors, **values}.items():
        *folders, name = path.split(separator)
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = value
    return nested


def _flush(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _short(value: Any) -> str:
    """Show a value in an error, cut to a readable length."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
