import os
import signal
from pathlib import Path

import pytest

from diffusers_jova.folder_lock import FolderInUseError, FolderLock, held_alone


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
