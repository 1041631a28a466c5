"""Players that a notebook shows: clips inside of the page, as long as they are not too large for it."""

import base64
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from .provenance import Record


MAX_SHOWN_BYTES = 8_000_000  # of all clips of an output; a notebook keeps what it shows
MIN_SHOWN_PX = 256  # width; smaller pictures are shown enlarged


def players(write: Callable[[Path, int], None], records: Sequence[Record], is_video: bool, width: int) -> str:
    """HTML that plays the clips of a batch, the first ones where all are more than `MAX_SHOWN_BYTES`.

    Args:
        write: Writes one of the clips to a file.
        records: How each of them was made.
        is_video: Whether they are mp4 or wav.
        width: Of the pictures, in pixels.
    """
    shown: list[str] = []
    num_bytes = 0
    with tempfile.TemporaryDirectory() as folder:
        for index, record in enumerate(records):
            path = Path(folder) / ("clip.mp4" if is_video else "clip.wav")
            write(path, index)
            content = path.read_bytes()
            num_bytes += len(content)
            if num_bytes > MAX_SHOWN_BYTES:
                break
            shown.append(player(content, is_video, width) + f"<figcaption>{escape(caption(record))}</figcaption>")
    figures = "".join(f'<figure style="display: inline-block; margin: 4px">{one}</figure>' for one in shown)
    missing = len(records) - len(shown)
    if not missing:
        return figures
    limit = f"{MAX_SHOWN_BYTES / 1e6:g} MB"
    return (
        f"{figures}<p>{missing} of {len(records)} clips not shown, because a notebook keeps what it shows and this is "
        f"more than {limit}; <code>output.save(path, index)</code> writes one to a file</p>"
    )


def player(content: bytes, is_video: bool, width: int) -> str:
    """HTML that plays one file, which it holds."""
    data = base64.b64encode(content).decode()
    if not is_video:
        return f'<audio controls src="data:audio/wav;base64,{data}"></audio>'
    shown_px = max(width, MIN_SHOWN_PX)
    return (
        f'<video controls loop playsinline width="{shown_px}" style="max-width: 100%; image-rendering: pixelated" '
        f'src="data:video/mp4;base64,{data}"></video>'
    )


def caption(record: Record) -> str:
    """What a reader wants to know of a clip: what made it, and from which seed."""
    seed = record.get("seed")
    return ", ".join([record.get("model") or "generated", *([] if seed is None else [f"seed {seed}"])])
