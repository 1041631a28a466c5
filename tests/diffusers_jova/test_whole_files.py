import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from diffusers_jova.whole_files import FullDiskError, explained_full_disk, write_text, written_whole


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "log", "old")

    def half(path: Path, text: str) -> None:
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match=r"log` could not be written .* start again, the rest is kept"):
        write_text(tmp_path / "log", "new", "the rest is kept")
    assert (tmp_path / "log").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


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
    (tmp_path / "result").rename(tmp_path / ".result.old")
    with pytest.raises(RuntimeError), written_whole(tmp_path / "result"):
        raise RuntimeError
    assert (tmp_path / "result" / "weights").read_text() == "old"
    write_folder(tmp_path / "result", "new")
    assert (tmp_path / "result" / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


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
