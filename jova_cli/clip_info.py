"""What a clip says of its origin: the record that `diffusers_jova` writes into every mp4 and wav it makes.

The record is JSON. An mp4 holds it under the key `jova`, beside a key for each of its main entries; a wav in the
comment of its LIST INFO chunk. Programs that keep tags, such as ComfyUI, take the keys into other containers.
"""

import json
from pathlib import Path
from typing import Any

from .container_size import missing_bytes


RECORD_KEY = "jova"  # of a video; Matroska writes it in capitals
WAV_KEY = "comment"  # libav's name of ICMT
CLIP_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".wav")


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Read the record of how a clip was made.

    Args:
        path: An mp4 or wav that this package wrote, or what another program made of it and kept its tags.

    Returns:
        What `diffusers_jova.provenance.describe_call` says of it.

    Raises:
        ValueError: If there is no such file, it cannot be read, or it holds no record.
    """
    if not Path(path).is_file():
        raise ValueError(f"the clip must be an existing file, got {path}; check the spelling")
    if not Path(path).stat().st_size:
        raise ValueError(f"the clip must be a whole file, got {path}, which is empty; copy it again")
    missing = missing_bytes(Path(path))
    cut_off = (
        f"the clip must be a whole file, got {path}, which lacks {missing} of the bytes that it announces and has no "
        "record in the others; copy it again"
    )
    import av  # here: other commands need no media

    try:
        with av.open(str(Path(path).absolute())) as container:
            tags = {key.lower(): text for key, text in container.metadata.items()}
    except (OSError, ValueError) as error:
        if missing:
            raise ValueError(cut_off) from error
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"the clip must be a readable video or wav, got {path} ({reason}); check the file") from error
    for key in (RECORD_KEY, WAV_KEY):
        record = parse_record(tags.get(key, ""))
        if record is not None:
            return record
    if missing:
        raise ValueError(cut_off)
    raise ValueError(
        f"the clip must hold a record of its origin, got {path} without one; it was made by something else, written "
        "with `--no-metadata`, or lost it in another program"
    )


def parse_record(text: str) -> dict[str, Any] | None:
    """The record that a tag holds; None where it holds anything else."""
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "generated" in record else None
