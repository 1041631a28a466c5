import fcntl
import os
import signal
from pathlib import Path

import pytest

from diffusers_jova.folder_lock import FolderInUseError, FolderLock, held_alone, in_turn


pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the children only wait and exit


def hold(folder: Path) -> tuple[int, int]:
    """Start a process that holds a folder until it is killed; returns its number and that of a child of its own."""
    reader, writer = os.pipe()
    if child := os.fork():
        return child, int(os.read(reader, 16))
    with held_alone(folder, "output_dir"):
        if grandchild := os.fork():
            os.write(writer, str(grandchild).encode())
        while True:
            signal.pause()


def test_a_folder_is_held_until_its_process_is_killed_whatever_children_it_leaves(tmp_path: Path) -> None:
    child, grandchild = hold(tmp_path / "run")
    try:
        said = r"`output_dir` must be a folder that no other run writes in, got "
        with pytest.raises(FolderInUseError, match=said), held_alone(tmp_path / "run", "output_dir"):
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with held_alone(tmp_path / "run", "output_dir"):
            pass
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_a_folder_is_free_after_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), held_alone(tmp_path / "run", "output_dir"):
        raise RuntimeError
    with held_alone(tmp_path / "run", "output_dir"):
        assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_knows_whether_its_folder_was_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = FolderLock(folder)
    assert lock.is_held
    assert lock.is_of(folder)
    folder.rename(tmp_path / "moved")
    assert not lock.is_of(folder)
    folder.mkdir()
    assert not lock.is_of(folder)
    lock.release()


def test_a_file_is_written_by_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "list"
    with path.open("ab") as file, path.open("ab") as other:
        with in_turn(file), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(RuntimeError), in_turn(file):
            raise RuntimeError
        with in_turn(other):
            pass


def test_who_comes_to_a_file_later_waits(tmp_path: Path) -> None:
    path, (reader, writer) = tmp_path / "list", os.pipe()
    with path.open("ab", buffering=0) as file, in_turn(file):
        if (child := os.fork()) == 0:
            with path.open("ab", buffering=0) as other:
                os.write(writer, b".")
                with in_turn(other):
                    other.write(b"second")
                os._exit(0)
        os.read(reader, 1)
        file.write(b"first ")
    assert os.waitpid(child, 0)[1] == 0
    assert path.read_bytes() == b"first second"
