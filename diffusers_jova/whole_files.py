"""Files and folders that are written whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
COMPLETE_IS_KEPT = "what is complete is kept"


class FullDiskError(OSError):
    """A file did not fit on the disk; the message says what to do."""


@contextmanager
def explained_full_disk(path: Path, kept: str = COMPLETE_IS_KEPT) -> Iterator[None]:
    """Say what to do where `path` does not fit on the disk, and what is `kept`.

    Raises:
        FullDiskError: In place of an error that comes from a full disk; every other error passes as it is.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _is_full_disk(error):
            raise
        raise FullDiskError(
            f"`{path}` could not be written ({error}); free some space and start again, {kept}"
        ) from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a place beside `path` for a file or a folder that then takes the place of `path`, whole or not at all.

    After a failure or an interruption, what stood at `path` stands there again.
    """
    partial, old = (path.with_name(f".{path.name}.{state}") for state in ("tmp", "old"))
    settle(old, path)  # a kill may have come between the two renames
    remove(partial)
    try:
        yield partial
        if partial.is_dir() and path.exists():  # which no folder can replace in one step
            path.rename(old)
        partial.replace(path)
    finally:
        settle(old, path)
        remove(partial)


def write_text(path: Path, text: str, kept: str = COMPLETE_IS_KEPT) -> None:
    """Write a file, which then holds all of the text or is left as it was; `kept` as `explained_full_disk`."""
    with explained_full_disk(path, kept), written_whole(path) as partial:
        partial.write_text(text)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as JSON, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values, indent=2) + "\n")


def settle(old: Path, path: Path) -> None:
    """Bring back what was moved aside from `path`, or delete it where something took its place."""
    if path.exists():
        remove(old)
    elif old.exists():
        old.rename(path)


def remove(path: Path) -> None:
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
