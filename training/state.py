"""Checkpoints of a training run: safetensors and JSON, written whole or not at all, refused by another run.

A checkpoint is a folder `checkpoint-00001000` of `<part>.safetensors` files (weights, averages, optimizer) and one
`state.json`. Nothing random is stored: the trainer derives data order and noise from the seed and the step.
"""

from __future__ import annotations

import errno
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
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class FullDiskError(OSError):
    """A file did not fit on the disk; the message says what to do."""


def save_checkpoint(output_dir: Path, step: int, parts: Mapping[str, Tensors], state: Mapping[str, Any]) -> Path:
    """Write one checkpoint; a crash, a kill or a full disk leaves the earlier ones and no half of this one.

    Args:
        output_dir: Folder that holds the run's checkpoints.
        step: Optimizer steps that were done.
        parts: Tensors of each file, by its name without extension.
        state: What `state.json` holds besides the step.
    """
    path = output_dir / f"checkpoint-{step:08d}"
    with explained_full_disk(path):
        with written_whole(path) as partial:
            partial.mkdir(parents=True)
            for name, tensors in parts.items():
                save_file({k: tensor.contiguous() for k, tensor in tensors.items()}, partial / f"{name}.safetensors")
            (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
            for file in partial.iterdir():
                _flush(file)
        _flush(output_dir)
    return path


@contextmanager
def explained_full_disk(path: Path) -> Iterator[None]:
    """Say what to do where `path` does not fit on the disk, and which checkpoint beside it a run continues from.

    Raises:
        FullDiskError: In place of an error that comes from a full disk; every other error passes as it is.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _is_full_disk(error):
            raise
        found = latest_checkpoint(path.parent)
        kept = f"the run continues from `{found.name}`" if found else "what is complete is kept"
        raise FullDiskError(
            f"`{path}` could not be written ({error}); free some space and start again, {kept}"
        ) from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a place beside `path` for a file or a folder that then takes the place of `path`, whole or not at all.

    After a failure or an interruption, what stood at `path` stands there again.
    """
    partial, old = (path.with_name(f".{path.name}.{state}") for state in ("tmp", "old"))
    _settle(old, path)  # a kill may have come between the two renames
    _remove(partial)
    try:
        yield partial
        if partial.is_dir() and path.exists():  # which no folder can replace in one step
            path.rename(old)
        partial.replace(path)
    finally:
        _settle(old, path)
        _remove(partial)


def write_text(path: Path, text: str) -> None:
    """Write a file, which then holds all of the text or is left as it was."""
    with explained_full_disk(path), written_whole(path) as partial:
        partial.write_text(text)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as JSON, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values, indent=2) + "\n")


def latest_checkpoint(output_dir: Path) -> Path | None:
    """Find the newest complete checkpoint; what a kill left half-written has another name."""
    found = [path for path in output_dir.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
    return max(found, default=None)


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
    found = sorted(path for path in output_dir.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name))
    own = [path for path in found if path <= newest]
    for path in (*own[:-keep], *found[len(own) :]):
        doomed = path.with_name(f".{path.name}.tmp")
        path.rename(doomed)
        shutil.rmtree(doomed)


def clear_leftovers(output_dir: Path) -> None:
    """Delete what a kill left half-written or half-deleted, and bring back what it left moved aside."""
    for path in output_dir.glob(".checkpoint-*.tmp"):
        _remove(path)
    for path in output_dir.glob(".checkpoint-*.old"):
        _settle(path, path.with_name(path.stem.removeprefix(".")))


def check_fingerprint(saved: Mapping[str, Any], current: Mapping[str, Any], path: Path) -> None:
    """Refuse to continue where a checkpoint belongs to a run of other settings, and name those that differ."""
    saved, current = json.loads(json.dumps([saved, current]))  # tuples become lists, as in the file
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


def _settle(old: Path, path: Path) -> None:
    """Bring back what was moved aside from `path`, or delete it where something took its place."""
    if path.exists():
        _remove(old)
    elif old.exists():
        old.rename(path)


def _remove(path: Path) -> None:
    """Delete a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_full_disk(error: OSError | SafetensorError) -> bool:
    """Tell a full disk from other errors; safetensors gives the number of the error in its text only."""
    if isinstance(error, OSError):
        return error.errno in FULL_DISK
    return any(f"(os error {number})" in str(error) for number in FULL_DISK)


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
