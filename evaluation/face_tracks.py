"""Faces through frames as SyncNet is shown them: which stretches count, and what is cut out of each frame.

Letters: P persons, F frames, n frames of a track. Boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.signal
from PIL import Image

from diffusers_jova.evaluation.syncnet import LIP_PX


Frames = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]

OUTSIDE = (110, 110, 110)  # what the network saw beyond the picture


class FaceTrack(NamedTuple):
    """A face in consecutive frames.

    Attributes:
        start: Number of its first frame.
        boxes: [n, 4], filled in linearly where no face was found.
        num_found: Frames in which it was found.
    """

    start: int
    boxes: FloatArray
    num_found: int

    @property
    def stop(self) -> int:
        """Number of the first frame behind it."""
        return self.start + len(self.boxes)

    @property
    def size_px(self) -> float:
        """The mean of the longer of width and height."""
        return float((self.boxes[:, 2:] - self.boxes[:, :2]).mean(0).max())


def find_tracks(faces: FloatArray, cuts: Sequence[int], max_gap: int) -> list[FaceTrack]:
    """Cut the tracks of persons, [P, F, 4] with NaN where none is found, where a scene or a long gap begins.

    Args:
        faces: One row of boxes for each person.
        cuts: Numbers of the frames with which another scene begins.
        max_gap: Frames without a face that may lie between two with one.
    """
    tracks = []
    for boxes in faces:
        found = np.flatnonzero(np.isfinite(boxes).all(-1))
        scenes = np.searchsorted(np.asarray(cuts, int), found, side="right")
        ends = np.flatnonzero((np.diff(found) > max_gap + 1) | (np.diff(scenes) > 0)) + 1
        for part in np.split(found, ends):
            if len(part):
                frames = np.arange(part[0], part[-1] + 1)
                filled = np.stack([np.interp(frames, part, boxes[part, side]) for side in range(4)], axis=-1)
                tracks.append(FaceTrack(int(part[0]), filled, len(part)))
    return tracks


def crop_corners(boxes: FloatArray, scale: float, smoothing: int) -> npt.NDArray[np.int_]:
    """What is cut out around faces [n, 4]: xyxy [n, 4] in whole pixels, which may lie outside of the picture.

    With half the longer side h of a face and its centre: (1 + scale) h to either side, h up, (1 + 2 scale) h down.

    Args:
        boxes: Of a track.
        scale: How much of the surroundings is shown.
        smoothing: Frames of the median filter over centres and sizes, an odd number; 1 for none.
    """
    half = (boxes[:, 2:] - boxes[:, :2]).max(1) / 2
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    if smoothing > 1:
        half, x, y = (scipy.signal.medfilt(track, smoothing) for track in (half, x, y))
    side = half * (1 + scale)
    corners = np.floor(np.stack([x - side, y - half, x + side, y + half * (1 + 2 * scale)], axis=-1)).astype(int)
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    return corners


def cut_out(frame: Frames, corners: npt.NDArray[np.int_]) -> Frames:
    """Cut xyxy [4] out of a frame [H, W, 3], grey beyond it, as [224, 224, 3] in blue, green and red."""
    left, top, right, bottom = map(int, corners)
    shown = Image.new("RGB", (right - left, bottom - top), OUTSIDE)
    shown.paste(Image.fromarray(frame), (-left, -top))
    resized = shown.transform((LIP_PX, LIP_PX), Image.Transform.EXTENT, (0, 0, *shown.size), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8)[..., ::-1]
