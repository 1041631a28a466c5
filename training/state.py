"""Checkpoints of a training run: safetensors and JSON, written whole or not at all, refused by another run.

A checkpoint is a folder `checkpoint-00001000` of `<part>.safetensors` files (weights, averages, optimizer) and one
`state.json`. Nothing random is stored: the trainer derives data order and noise from the seed and the step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


Tensors = dict[str, Tensor]
CHECKPOINT = re.compile(r"checkpoint-(\d{8})")


def save_checkpoint(output_dir: Path, step: int, parts: Mapping[str, Tensors], state: Mapping[str, Any]) -> Path:
    """Writes one checkpoint; a crash, a kill or a full disk leaves the earlier ones and no half of this one.

    Args:
        output_dir: Folder that holds the run's checkpoints.
        step: Optimizer steps that were done.
        parts: Tensors of each file, by its name without extension.
        state: What `state.json` holds besides the step.
    """
    path = output_dir / f"checkpoint-{step:08d}"
    partial = output_dir / f".{path.name}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with explained_full_disk(path):
            partial.mkdir(parents=True)
            for name, tensors in parts.items():
                save_file({k: tensor.contiguous() for k, tensor in tensors.items()}, partial / f"{name}.safetensors")
            (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
            for file in partial.iterdir():
                _flush(file)
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
            _flush(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


@contextmanager
def explained_full_disk(path: Path) -> Iterator[None]:
    """Says from where the run continues if `path`, a file of its output folder, cannot be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        found = latest_checkpoint(path.parent)
        raise OSError(
            f"`{path}` could not be written ({error}); free some space and start again, the run continues from "
            f"{'`' + found.name + '`' if found else 'its beginning'}"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes a file of the output folder, which then holds all of the text or is left as it was."""
    partial = path.with_name(f".{path.name}.tmp")
    with explained_full_disk(path):
        try:
            partial.write_text(text)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def latest_checkpoint(output_dir: Path) -> Path | None:
    """Finds the newest complete checkpoint; what a kill left half-written has another name."""
    found = [path for path in output_dir.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
    return max(found, default=None)


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Reads the tensors of each part, on the CPU, and the contents of `state.json`."""
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
    """Deletes all but ``keep`` checkpoints, each with one rename first, so that none is ever half there.

    Args:
        output_dir: Folder that holds the run's checkpoints.
        newest: The one just written; what lies beyond it is of an earlier run that was not continued.
        keep: How many stay.
    """
    found = sorted(path for path in output_dir.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name))
    own = [path for path in found if path <= newest]
    for path in (*own[:-keep], *found[len(own) :]):
        doomed = path.with_name(f".{path.name}.tmp")
        path.rename(doomed)
        shutil.rmtree(doomed)


def check_fingerprint(saved: Mapping[str, Any], current: Mapping[str, Any], path: Path) -> None:
    """Raises where a checkpoint belongs to a run of other settings, and names those that differ."""
    current = json.loads(json.dumps(current))  # tuples become lists, as in the file
    names = [name for name in sorted(current) if saved.get(name) != current[name]]
    if names:
        changes = ", ".join(
            f"`{name}` is {_short(saved.get(name))} there and {_short(current[name])} here" for name in names
        )
        raise ValueError(
            f"`{path}` must come from a run with the same settings to be continued, but {changes}; restore the "
            "settings, choose another `output_dir`, or start afresh with `resume=false`"
        )


def pack(nested: Mapping[str, Any], separator: str = "/") -> tuple[Tensors, dict[str, Any]]:
    """Splits nested dictionaries into tensors, for safetensors, and other values, for JSON, both by their path."""
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
    """Undoes `pack`."""
    nested: dict[str, Any] = {}
    for path, value in {**tensors, **values}.items():
        *folders, name = path.split(separator)
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = value
    return nested


def _flush(path: Path) -> None:
    """Waits until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _short(value: Any) -> str:
    """Shows a value in an error, cut to a readable length."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
