"""How like in colour the frames of a clip are to its reference image: a measure that needs no weights.

Letters: H and W pixels, N of them, B bins of colours.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from diffusers_jova.evaluation.clip_signals import PictureTracks
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.seen_frames import read_frames
from diffusers_jova.media import read_image


FloatArray = npt.NDArray[np.floating]

LEVELS = 8  # of each channel
MAX_PIXELS = 2**16  # of a picture, that are looked at


def measure_colours(video: Path | None, picture: PictureTracks | None, reference: Path | None) -> Measured:
    """Compare the frames of a clip with its reference image; with its own first frame where there is none.

    Args:
        video: The file of the pictures; None for sound alone.
        picture: Its tracks.
        reference: The image that the clip was made from.

    Raises:
        ValueError: If a file cannot be read.
    """
    if video is None or picture is None:
        return Measured({}, "no picture")
    frames = [frame.picture for frame in read_frames(video, picture)]
    if reference is None:
        known, frames, told = frames[0], frames[1:], "the first frame, for want of a reference image"
    else:
        known, told = read_image(reference), reference.name
    if not frames:
        return Measured({}, "one frame alone, and no reference image")
    wanted = colours(ImageOps.fit(known, frames[0].size, Image.Resampling.LANCZOS))  # as a clip of it is cut
    likeness = float(np.mean([shared(colours(frame), wanted) for frame in frames]))
    return Measured({"identity_colour": likeness}, texts={"identity": told})


def colours(picture: Image.Image) -> FloatArray:
    """Shares of the colours of a picture in RGB, [B], in `LEVELS` of each channel.

    Deviates from Swain and Ballard, whose bins have edges: a pixel between two levels counts for both, by how near it
    is, because a codec moves flat colours a little, and would move all of one across an edge.
    """
    pixels = np.asarray(picture)
    step = max(1, round((pixels.shape[0] * pixels.shape[1] / MAX_PIXELS) ** 0.5))
    place = pixels[::step, ::step].reshape(-1, 3) * ((LEVELS - 1) / 255)  # [N, 3], in levels
    below = np.minimum(place.astype(int), LEVELS - 2)
    above = place - below  # share of the level above
    found = np.zeros(LEVELS**3)
    for corner in product((0, 1), repeat=3):
        weights = np.where(corner, above, 1 - above).prod(1)
        found += np.bincount((below + corner) @ (LEVELS**2, LEVELS, 1), weights, len(found))
    return np.asarray(found / len(place))


def shared(ours: FloatArray, theirs: FloatArray) -> float:
    """What two shares of colours [B] have in common, in [0, 1].

    Swain and Ballard, Color Indexing (IJCV 7, 1991), histogram intersection:  sum_j min(I_j, M_j) / sum_j M_j
    """
    return float(np.minimum(ours, theirs).sum())
