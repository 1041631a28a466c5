"""What a file or a folder was made from, noted beside it: nothing of other settings is continued or taken as done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jova_cli.json_text import read_object

from .whole_files import write_json


NOTE = "origin.json"
PARTS = (".json", ".model", ".safetensors")  # of a saved component
SAMPLE_BYTES, NUM_SAMPLES = 2**16, 64  # of a large file, for its digest
BESIDE = (NOTE, "report.json", "codecs_report.json")  # lie in a folder of weights and decide nothing


class OriginError(ValueError):
    """What is there was made with other settings than the present ones."""


def check_origin(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Refuse what was made with other settings, and name those that differ.

    Args:
        found: Settings that are noted at `path`, as JSON gives them back.
        wanted: The present ones; a setting that only one of both has is of another version and decides nothing.
        path: Of the file or the folder.

    Raises:
        OriginError: If a setting that both have differs.
    """
    there, here = flatten(found), flatten(json.loads(json.dumps(wanted)))
    names = sorted(name for name in there.keys() & here.keys() if there[name] != here[name])
    if names:
        changes = ", ".join(f"`{name}` {there[name]} there, {here[name]} here" for name in names)
        raise OriginError(
            f"`{path}` must be made with the present settings, got {changes}; delete it or choose another output "
            "folder"
        )


def keep_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    """Note in a folder what it is made from, before it is; one without a note counts as made from the same.

    Raises:
        OriginError: If the folder was made from something else.
    """
    note = folder / NOTE
    if note.exists():
        check_origin(read_object(note), origin, folder)
    else:
        write_json(note, origin)


def read_origin(folder: Path) -> dict[str, Any]:
    """What a folder says that it was made from; nothing if it has no note."""
    note = folder / NOTE
    return read_object(note) if note.exists() else {}


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested mappings by their path: `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def digest_components(folders: Iterable[Path]) -> str:
    """Digest the weights, settings and vocabularies of saved components: another file, another text."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(path for path in folder.iterdir() if path.suffix in PARTS and path.name not in BESIDE):
            digest.update(f"{folder.name}/{path.name}".encode() + _content(path))
    return digest.hexdigest()[:16]


def digest_path(path: Path) -> str:
    """Digest a file, or the files of a folder: all of a small one, samples from all over a large one.

    Weights that were trained on differ everywhere; large files that differ between the samples alone count as one.
    """
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and file.suffix != ".md":
            size = file.stat().st_size
            digest.update(f"{file.relative_to(path)} {size}".encode())
            with file.open("rb") as content:
                for start in range(0, size, max(SAMPLE_BYTES, size // NUM_SAMPLES)):
                    content.seek(start)
                    digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _content(path: Path) -> bytes:
    """Bytes of a file; of a config without the place that the component was once loaded from."""
    if path.name != "config.json":
        return path.read_bytes()
    values = read_object(path)
    values.pop("_name_or_path", None)
    return json.dumps(values, sort_keys=True).encode()
