"""Pictures that move: how many of their frames follow each other, as a film where libav does not decode them.

Pillow reads them, and is imported when a file is opened.
"""

import os
import warnings
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from math import gcd
from pathlib import Path
from typing import Any


MOVING = ("AVIF", "GIF", "PNG", "WEBP")  # further pictures of others are thumbnails, pages
HEADS = (b"WEBP", b"ftypavi")  # from the 9th and from the 5th byte on, of those that libav does not decode
LEAST_MS = 11  # of a frame; players take less for `USUAL_MS`
USUAL_MS = 100


def frames_in_time(image: Any) -> int:
    """How many frames of an open image of Pillow follow each other in time."""
    return getattr(image, "n_frames", 1) if image.format in MOVING else 1


def num_frames(path: str | os.PathLike[str]) -> int:
    """How many frames of a picture follow each other in time; 0 for what is no picture."""
    import PIL.Image

    try:
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(path) as image:
            return frames_in_time(image)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):
        return 0


def as_film(path: Path) -> BytesIO | None:
    """The frames of a moving AVIF or WebP at their times, in a file that libav decodes; None for other files.

    Of such a WebP libav decodes nothing, of an AVIF the picture that stands in front of its frames.

    Raises:
        ValueError: A frame is broken.
    """
    with path.open("rb") as file:
        head = file.read(12)
    if not (head[8:] == HEADS[0] or head[4:11] == HEADS[1]) or num_frames(path) < 2:
        return None
    try:
        return _film(path)
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError) as error:  # what Pillow raises for broken files
        raise ValueError(
            f"`path` must be a whole file, got {path}, of which a frame is broken ({error}); save it again"
        ) from error


def _film(path: Path) -> BytesIO:
    import av
    import numpy as np

    times_ms, size = [0], (0, 0)
    for frame in _frames(path):
        size = frame.size
        duration_ms = round(frame.info.get("duration", 0))
        times_ms.append(times_ms[-1] + (duration_ms if duration_ms >= LEAST_MS else USUAL_MS))
    tick_ms = gcd(*times_ms)
    film = BytesIO()
    with av.open(film, "w", format="mov") as container:
        stream = container.add_stream("png", rate=Fraction(1000, tick_ms), options={"compression_level": "1"})
        stream.pix_fmt, (stream.width, stream.height) = "rgba", size
        for (start_ms, end_ms), frame in zip(pairwise(times_ms), _frames(path), strict=True):
            picture = av.VideoFrame.from_ndarray(np.asarray(frame.convert("RGBA")), format="rgba")
            picture.pts, picture.time_base = start_ms // tick_ms, Fraction(tick_ms, 1000)
            for packet in stream.encode(picture):  # one, as the codec knows no frames beside it
                packet.duration = (end_ms - start_ms) // tick_ms
                container.mux(packet)
    film.seek(0)
    return film


def _frames(path: Path) -> Iterator[Any]:
    """Each frame of a file as Pillow has it, decoded."""
    import PIL.Image

    with PIL.Image.open(path) as image:
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            yield image
