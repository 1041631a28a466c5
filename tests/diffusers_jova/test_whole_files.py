import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from diffusers_jova.whole_files import (
    FullDiskError,
    clear_leftovers,
    delete_whole,
    explained_full_disk,
    write_text,
    written_whole,
)
from tests.places import ROOT


pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the children only write and exit


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "log", "old")

    def half(path: Path, text: str, **_: str) -> None:
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match=r"log` could not be written .* start again, the rest is kept"):
        write_text(tmp_path / "log", "new", "the rest is kept")
    assert (tmp_path / "log").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


@pytest.mark.slow
def test_a_text_is_utf_8_wherever_it_is_written(tmp_path: Path) -> None:
    words = (
        "import sys; from pathlib import Path; from diffusers_jova.whole_files import write_text; "
        "write_text(Path(sys.argv[1]), chr(0xE9))"
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # text is ASCII there
    subprocess.run([sys.executable, "-c", words, str(tmp_path / "log")], env=plain, cwd=ROOT, check=True)
    assert (tmp_path / "log").read_bytes() == "\u00e9".encode()


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["io", "ctrl-c"]
)
def test_a_folder_stays_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write_folder(tmp_path / "result", "old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(type(error)):
        write_folder(tmp_path / "result", "new")
    assert (tmp_path / "result" / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_folder_that_a_kill_left_aside_comes_back_and_makes_way_for_the_next(tmp_path: Path) -> None:
    write_folder(tmp_path / "result", "old")
    kill_while_writing(tmp_path / "result", "Path.replace = lambda *_: os._exit(9); path.mkdir()")
    assert not (tmp_path / "result").exists()
    with pytest.raises(RuntimeError), written_whole(tmp_path / "result"):
        raise RuntimeError
    assert (tmp_path / "result" / "weights").read_text() == "old"
    write_folder(tmp_path / "result", "new")
    assert (tmp_path / "result" / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize("made", ["path.write_bytes(bytes(9)); os._exit(9)", "path.mkdir(); os._exit(9)"])
def test_what_a_killed_process_left_is_deleted_by_the_next_one(tmp_path: Path, made: str) -> None:
    kill_while_writing(tmp_path / "result", made)
    assert len(list(tmp_path.glob(".result*"))) == 1
    write_text(tmp_path / "result", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_what_another_living_process_writes_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "result"
    (began, says), (may_end, lets) = os.pipe(), os.pipe()
    child = fork_writer(path, f"path.write_text('its'); os.write({says}, b'.'); os.read({may_end}, 1)")
    os.read(began, 1)
    write_text(path, "mine")
    assert path.read_text() == "mine"
    os.write(lets, b".")
    assert os.waitpid(child, 0)[1] == 0
    assert path.read_text() == "its"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_two_that_write_at_once_have_places_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "result"
    with written_whole(path) as first, written_whole(path) as second:
        assert first != second
        second.write_text("second")
        first.write_text("first")
    assert path.read_text() == "first"
    kill_while_writing(path, "os._exit(9)")
    with written_whole(path) as first:
        kill_while_writing(path, "os._exit(9)")
        first.write_text("whole")
    write_text(path, "last")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_are_readable_for_those_whom_the_process_lets_read(tmp_path: Path, umask: int, mode: int) -> None:
    """safetensors 0.8 gives every file to its owner alone, whatever the process asks for."""
    before = os.umask(umask)
    try:
        with written_whole(tmp_path / "model") as folder:
            (folder / "transformer").mkdir(parents=True)
            save_file({"weight": torch.zeros(2)}, folder / "transformer" / "weights.safetensors")
            (folder / "link").symlink_to("transformer")
        with written_whole(tmp_path / "adapter.safetensors") as file:
            save_file({"weight": torch.zeros(2)}, file)
    finally:
        os.umask(before)
    written = (tmp_path / "model" / "transformer" / "weights.safetensors", tmp_path / "adapter.safetensors")
    assert [file.stat().st_mode & 0o777 for file in written] == [mode, mode]


def test_deleting_whole_leaves_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "result", "old")
    delete_whole(tmp_path / "result")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_many_names_are_cleared_and_those_of_others_stay(tmp_path: Path) -> None:
    for name in ("part-1", "part-2", "other"):
        kill_while_writing(tmp_path / name, "os._exit(9)")
    clear_leftovers(tmp_path, "part-*")
    assert [path.name for path in tmp_path.iterdir()] == [".other.partial-1"]


def kill_while_writing(path: Path, words: str) -> None:
    """Run python words that end a process, with status 9, while it writes to `path`."""
    assert os.waitstatus_to_exitcode(os.waitpid(fork_writer(path, words), 0)[1]) == 9


def fork_writer(path: Path, words: str) -> int:
    """Start a process that runs python words in the block of `written_whole`; returns its number."""
    if child := os.fork():
        return child
    status = 1
    try:
        with written_whole(path) as place:
            exec(words, {"path": place, "os": os, "Path": Path})
        status = 0
    finally:
        os._exit(status)


def write_folder(path: Path, text: str) -> None:
    with written_whole(path) as partial:
        partial.mkdir()
        (partial / "weights").write_text(text)


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]), True),
        (shutil.Error([("a", "b", "[Errno 2] No such file or directory: 'a' -> 'b'")]), False),
        (OSError(errno.EFBIG, "File too large"), True),
        (SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
    ],
)
def test_only_a_full_disk_asks_for_space(tmp_path: Path, error: Exception, is_full: bool) -> None:
    with pytest.raises((OSError, SafetensorError)) as raised, explained_full_disk(tmp_path / "log"):
        raise error
    assert (raised.value is error) == (not is_full)
    assert isinstance(raised.value, FullDiskError) == is_full


def test_a_full_disk_is_told_of_what_was_asked_for_not_of_a_part_of_it(tmp_path: Path) -> None:
    said = rf"^`{tmp_path}/clip` could not be written \(No space left on device\); .* again, nothing was written$"
    outer = explained_full_disk(tmp_path / "clip", "nothing was written")
    inner = explained_full_disk(tmp_path / "part")
    with pytest.raises(FullDiskError, match=said), outer, inner:
        raise OSError(errno.ENOSPC, "No space left on device")
