"""Locks on folders and files that end with the process that holds them, however that process ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


try:
    import fcntl

    _fcntl: Any = fcntl
except ImportError:  # Windows, where nothing is locked
    _fcntl = None

TAKEN = (errno.EACCES, errno.EAGAIN)

_held: set[int] = set()  # open descriptors; a forked child would keep their locks


class FolderInUseError(OSError):
    """Another living process writes in a folder; the message says what to do."""


class FolderLock:
    """A lock on an existing folder.

    Args:
        folder: Path of the folder.

    Attributes:
        is_held: Whether it is held here; False where another process holds it, None where nothing can be locked.
    """

    def __init__(self, folder: Path) -> None:
        self.is_held: bool | None = None
        self._descriptor = -1
        if _fcntl is None:
            return
        self._descriptor = os.open(folder, os.O_RDONLY)
        _held.add(self._descriptor)
        try:
            _fcntl.flock(self._descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
            self.is_held = True
        except OSError as error:  # some network disks know no locks
            self.is_held = False if error.errno in TAKEN else None

    def is_of(self, folder: Path) -> bool:
        """Whether the folder at this path is still the one that was opened."""
        if self._descriptor < 0:
            return folder.is_dir()
        try:
            return os.path.samestat(os.fstat(self._descriptor), folder.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor in _held:  # a forked child has closed it
            _held.discard(self._descriptor)
            os.close(self._descriptor)


@contextmanager
def held_alone(folder: Path, what: str) -> Iterator[None]:
    """Be the only one that writes in a folder, which is made, while the block runs.

    Args:
        folder: Path of the folder.
        what: Option that named it, for the message.

    Raises:
        FolderInUseError: If another process does, which still lives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder)
    try:
        if lock.is_held is False:
            raise FolderInUseError(
                f"`{what}` must be a folder that no other run writes in, got `{folder}`; wait for the other run or "
                "name another folder"
            )
        yield
    finally:
        lock.release()


@contextmanager
def in_turn(file: IO[bytes]) -> Iterator[None]:
    """Wait until no other process is in this block with the same file, then run it; on a disk without locks, at once.

    Args:
        file: Open for writing, without which NFS locks nothing; the block leaves nothing of it in a buffer.
    """
    if _fcntl is not None:
        with suppress(OSError):  # some network disks know no locks
            _fcntl.flock(file, _fcntl.LOCK_EX)
    try:
        yield
    finally:
        if _fcntl is not None:
            with suppress(OSError):
                _fcntl.flock(file, _fcntl.LOCK_UN)


def _close_in_child() -> None:
    """Let a lock end with the process that took it, whatever children it has left."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
