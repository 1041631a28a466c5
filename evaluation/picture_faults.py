"""What is wrong with pictures that nobody has a reference for: black, frozen or flickering frames, blur, no motion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diffusers_jova.evaluation.clip_signals import PictureTracks
from diffusers_jova.evaluation.measured import Measured


FloatArray = npt.NDArray[np.floating]

BLACK_SHARE = 0.98  # of the pixels, below a tenth of white: the rule of ffmpeg's blackdetect
SAME = 0.002  # of white, in every tile: half a level of 256
FROZEN_S = 0.5
MOVING = 0.01  # of white, in a tile


def measure_pictures(picture: PictureTracks | None) -> Measured:
    """Measure the tracks of a clip; a frame that stands longer than others in its file repeats nothing.

    Frozen is what is seen to stand still, be it one stored frame or many.
    """
    if picture is None:
        return Measured({}, "no picture")
    values: dict[str, float | None] = {
        "black_share": float((picture.dark >= BLACK_SHARE).mean()),
        "sharpness": float(np.median(picture.detail)),
        "repeated_share": None,
        "frozen_share": None,
        "flicker": None,
        "motion_share": None,
    }
    if len(picture.luma) < 3:
        return Measured(values, "fewer than three frames")
    same = picture.changes.max(1) < SAME  # [F - 1]
    values["frozen_share"] = frozen_share(same, picture.frame_rate)
    stored = np.ones(len(same), bool) if picture.copies is None else ~picture.copies  # steps to another stored frame
    if stored.sum() < 2:
        return Measured(values, "fewer than three frames are stored")
    values |= {
        "repeated_share": float(same[stored].mean()),
        "flicker": flicker(picture.luma[np.concatenate([[True], stored])]),
        "motion_share": float((picture.changes[stored] >= MOVING).mean()),
    }
    return Measured(values)


def frozen_share(same: npt.NDArray[np.bool_], frame_rate: float) -> float:
    """Share of the steps between frames [F - 1] that lie in half a second or more of one picture."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]])))
    lengths = edges[1::2] - edges[::2]
    is_long = lengths + 1 >= max(2, round(FROZEN_S * frame_rate))  # frames that show one picture
    return float(lengths[is_long].sum() / len(same))


def flicker(luma: FloatArray) -> float:
    """Mean absolute second difference of the brightness [F], halved, in per cent of white; a slow fade has none."""
    return float(100 * np.abs(np.diff(luma, 2)).mean() / 2)
