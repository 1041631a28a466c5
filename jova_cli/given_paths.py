"""Paths of a command line: what cannot be read or written is refused in one sentence, before any work."""

import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Literal

from .tables import some


PREPARE_FIRST = "run `jova prepare` first"
RECORDS = "*.safetensors"  # that `jova prepare` writes
SUMMARY, UNFINISHED = "prepare.json", "prepare.unfinished"  # beside them, and until all are written
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
WEIGHT_FILES = (".safetensors", *PICKLES)
LONGEST_NAME_BYTES = 200  # of 255 that a file system takes; the rest is for what writing adds


def is_prepared(folder: Path) -> bool:
    """Whether `jova prepare` wrote a folder."""
    return (folder / SUMMARY).is_file() or (folder / UNFINISHED).is_file()


def kind_of(path: str | os.PathLike[str]) -> Literal["file", "folder", ""]:
    """What stands at a path; empty where nothing does, or where it is forbidden to look."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # no file has a name with a null
        return ""
    return "folder" if stat.S_ISDIR(mode) else "file"


def lacking_folder(source: str | os.PathLike[str]) -> str:
    """What the folder holds that a path which is not there names; empty where that is no folder, or none is named."""
    path = Path(source)
    if kind_of(path) or path.parent == Path() or kind_of(path.parent) != "folder":
        return ""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    except OSError:
        return ""
    near = [name for name in names if name.split("-")[0] == path.name.split("-")[0]] or names
    return f"which is not in `{path.parent}` (there: {some(near) or 'nothing'})"


def reason_of(error: Exception) -> str:
    """What the system says of a path, without its number and the path again."""
    return getattr(error, "strerror", None) or str(error)


def check_file(option: str, path: Path, advice: str = "check the spelling", what: str = "file") -> None:
    """Refuse what is no file that can be read, and an empty one.

    Args:
        option: That names it, for the message.
        path: Of the file.
        advice: What to do.
        what: May stand there.
    """
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except (OSError, ValueError) as error:  # no file has a name with a null
        reason = reason_of(error)
        if re.match("https?:/", str(path)):
            advice = "download it first, no address is read"
        raise ValueError(f"`{option}` must be an existing {what}, got {path} ({reason}); {advice}") from error
    if is_empty:
        raise ValueError(f"`{option}` must be a whole file, got {path}, which is empty; copy or write it again")


def check_folder(option: str, path: Path, advice: str) -> None:
    """Refuse what is no folder that can be read, and an empty one."""
    try:
        reason = "" if any(path.iterdir()) else "it is empty"
    except (OSError, ValueError) as error:
        reason = reason_of(error)
    if reason:
        raise ValueError(f"`{option}` must be an existing folder, got `{path}` ({reason}); {advice}")


def check_readable(option: str, path: Path, advice: str = "check the spelling") -> None:
    """Refuse what is neither a file nor a folder that can be read, and an empty one."""
    kind = kind_of(path)
    if kind == "folder":
        check_folder(option, path, advice)
    else:
        check_file(option, path, advice, what=kind or "file or folder")


def check_prepared(option: str, path: Path) -> None:
    """Refuse a folder without the records that `jova prepare` writes."""
    check_folder(option, path, PREPARE_FIRST)
    if not any(path.glob(RECORDS)):
        raise ValueError(f"`{option}` must hold `{RECORDS}` records, got `{path}` without any; {PREPARE_FIRST}")


def check_output_folder(option: str, path: Path, rule: str = "be a folder that can be written") -> None:
    """Refuse a folder that cannot be written in, or made; nothing is made.

    Args:
        option: That names it, for the message.
        path: Of the folder.
        rule: Which it must follow.
    """
    try:
        places = (path, *path.absolute().parents)
        place = next(place for place in places if place.exists() or place.is_symlink())  # one to nowhere is no place
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"`{option}` must {rule}, got `{path}` ({reason}); choose another") from error


def check_suffix(option: str, path: Path, suffix: str) -> None:
    """Refuse a file whose name belongs to another kind."""
    if path.suffix.lower() != suffix:
        raise ValueError(f"`{option}` must end in {suffix} for this clip, got {path}; use {renamed(path, suffix)}")


def renamed(path: Path, suffix: str) -> Path:
    """A path with another suffix; where it has no name, as an empty word, one in that folder."""
    return path.with_suffix(suffix) if path.name else path / f"clip{suffix}"


def check_name(option: str, path: Path) -> None:
    """Refuse a file whose name is so long that writing it would fail."""
    if (num_bytes := len(path.name.encode())) > LONGEST_NAME_BYTES:
        raise ValueError(
            f"`{option}` must be a file with a name of at most {LONGEST_NAME_BYTES} bytes, got {num_bytes}: {path}; "
            "shorten it"
        )


def check_writable(option: str, path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done for it; its folder may be one to be made."""
    check_name(option, path)
    if kind_of(path) == "folder":
        raise ValueError(f"`{option}` must be a file that can be written, got {path} (it is a folder); choose another")
    check_output_folder(option, path.parent, "lie in a folder that can be written")


def check_new(option: str, path: Path) -> None:
    """Refuse an output that is there, or that cannot be made."""
    check_output_folder(option, path.absolute().parent, "lie in a folder that can be written")
    if path.exists() or path.is_symlink():
        raise ValueError(f"`{option}` must be a new path, got `{path}`, which exists; choose another")
