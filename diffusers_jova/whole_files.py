"""Files and folders that are written whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .folder_lock import FolderLock


FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PARTIAL = ".partial-"  # in the names of the places where something is written
OLD = "old"  # in such a place: what is to be replaced, between two renames
COMPLETE_IS_KEPT = "what is complete is kept"
NOTHING_WRITTEN = "nothing was written"


class FullDiskError(OSError):
    """A file did not fit on the disk; the message says what to do.

    Attributes:
        reason: How the system words it.
    """

    reason = ""


@contextmanager
def explained_full_disk(path: Path, kept: str = COMPLETE_IS_KEPT) -> Iterator[None]:
    """Say what to do where `path` does not fit on the disk, and what is `kept`.

    Of several such blocks the outermost speaks: what an inner one names may be a part, or a place that is gone.

    Raises:
        FullDiskError: In place of an error that comes from a full disk; every other error passes as it is.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = _full_disk_reason(error)
        if not reason:
            raise
        full = FullDiskError(f"`{path}` could not be written ({reason}); free some space and start again, {kept}")
        full.reason = reason
        raise full from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a place beside `path` for a file or a folder that then takes the place of `path`, whole or not at all.

    Its folder is made. Files have the mode that the process gives new ones (umask), also those of safetensors, which
    gives every file to its owner alone. After a failure or an interruption, what stood at `path` stands there again.
    What a killed process left of its writing is deleted by the next one that writes to `path`; that of a living
    process is left alone, and its place is another one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _own_place(path) as place:
        partial, old = place / f".{path.name}", place / OLD
        try:
            yield partial
            share(partial, place.stat().st_mode)
            if partial.is_dir() and path.exists():  # which no folder can replace in one step
                path.rename(old)
            partial.replace(path)
        finally:
            _bring_back(place, path)


def delete_whole(path: Path) -> None:
    """Delete a folder that is there or not, but never half."""
    with _own_place(path) as place:
        path.rename(place / f".{path.name}")


def clear_leftovers(folder: Path, pattern: str) -> None:
    """Delete what killed processes left of writing names like `pattern`, and bring back what they moved."""
    for place in folder.glob(f".{pattern}{PARTIAL}*"):
        name = place.name[1:].rpartition(PARTIAL)[0]
        if lock := _take(place, folder / name, is_own=False):
            _clear(place, lock)


@contextmanager
def _own_place(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path` that no other living process has: the first free one of a row of names."""
    places = (path.with_name(f".{path.name}{PARTIAL}{number}") for number in count(1))
    place, lock = next((place, lock) for place in places if (lock := _take(place, path, is_own=_make(place))))
    later = next(places)
    if left := _take(later, path, is_own=False):
        _clear(later, left)
    try:
        yield place
    finally:
        _clear(place, lock)


def _make(place: Path) -> bool:
    """Make a folder; returns whether it was not there before."""
    try:
        place.mkdir()
    except FileExistsError:
        return False
    return True


def _take(place: Path, path: Path, *, is_own: bool) -> FolderLock | None:
    """Lock a place and empty it; None if there is none, or another process has it, or may have.

    Args:
        place: Folder to write in.
        path: What is written.
        is_own: Whether this process made it, which counts where a disk knows no locks.
    """
    if not place.is_dir():
        return None
    try:
        lock = FolderLock(place)
    except FileNotFoundError:  # deleted meanwhile
        return None
    if not (is_own if lock.is_held is None else lock.is_held) or not lock.is_of(place):
        lock.release()
        return None
    _bring_back(place, path)
    for left in place.iterdir():
        remove(left)
    return lock


def _clear(place: Path, lock: FolderLock) -> None:
    remove(place)
    lock.release()


def share(written: Path, folder_mode: int) -> None:
    """Let those read and write a file, or those of a folder, who may do so by the mode of a folder around it."""
    for file in [written, *written.rglob("*")]:
        if file.is_symlink() or not file.is_file():
            continue
        mode = file.stat().st_mode
        if missing := folder_mode & 0o666 & ~mode:
            with suppress(OSError):  # disks without modes
                file.chmod(mode | missing)


def share_as_folder(file: Path) -> None:
    """Let those read and write a file, if there is one, who may do so by the mode of its folder."""
    if file.is_file():
        share(file, file.parent.stat().st_mode)


def _bring_back(place: Path, path: Path) -> None:
    """Undo the first of two renames where the second did not come."""
    if (place / OLD).exists() and not path.exists():
        (place / OLD).rename(path)


def write_text(path: Path, text: str, kept: str = COMPLETE_IS_KEPT) -> None:
    """Write a file in UTF-8: it holds all of the text, or is left as it was; `kept` as `explained_full_disk`."""
    with explained_full_disk(path, kept), written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Mapping[str, Any], *, allow_nan: bool = True) -> None:
    """Write an object as JSON, whole or not at all; its folder is made.

    Raises:
        ValueError: If a number is not finite, which JSON does not know, and not `allow_nan`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values, indent=2, allow_nan=allow_nan) + "\n")


def remove(path: Path) -> None:
    """Delete a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _full_disk_reason(error: OSError | SafetensorError) -> str:
    """How the system words a full disk; empty for other errors. Some give its number in their text only."""
    if isinstance(error, FullDiskError):
        return error.reason
    if isinstance(error, OSError) and not isinstance(error, shutil.Error):
        return (error.strerror or str(error)) if error.errno in FULL_DISK else ""
    numbers = [number for number in FULL_DISK if re.search(rf"(os error |Errno ){number}\b", str(error))]
    return os.strerror(numbers[0]) if numbers else ""
