"""How far the mouth boxes of a clip can be trusted: how often a mouth is seen, whether boxes jump, how many faces.

Letters: P persons, F frames. Boxes are float xyxy in pixels, NaN = no mouth.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


JUMP = 0.5  # between two frames, in widths of the mouth
GROWTH = 1.5  # of the width between two frames
MIN_FACE = 0.1  # of the frames; who is seen less is not counted as a face


class MouthQuality(NamedTuple):
    """What is known of the mouths of one clip.

    Attributes:
        share: Of the frames that show a mouth.
        num_faces: Persons that are seen in a tenth of the frames or more.
        num_jumps: How often a box moves or grows more than a mouth does between two frames, or is lost for a while.
        cut_share: Of the faces that the crop cuts into.
    """

    share: float
    num_faces: int
    num_jumps: int
    cut_share: float


def measure_mouths(boxes: NDArray[np.floating[Any]], cut_share: float) -> MouthQuality:
    """Measure the tracks [P, F, 4] of a clip."""
    seen = np.isfinite(boxes).all(-1)  # [P, F]
    num_jumps = sum(_num_jumps(track[row], np.flatnonzero(row)) for track, row in zip(boxes, seen, strict=True))
    num_faces = int((seen.mean(axis=1) >= MIN_FACE).sum())
    return MouthQuality(float(seen.any(0).mean()), num_faces, num_jumps, cut_share)


def _num_jumps(track: NDArray[np.floating[Any]], frames: NDArray[np.int_]) -> int:
    """Count the jumps of the boxes [N, 4] that are seen in `frames`, and the gaps between them."""
    if len(track) < 2:
        return 0
    widths = np.maximum(track[:, 2] - track[:, 0], 1e-6)
    centres = (track[:, :2] + track[:, 2:]) / 2
    moved = np.hypot(*np.diff(centres, axis=0).T) > JUMP * np.minimum(widths[1:], widths[:-1])
    grew = np.abs(np.diff(np.log(widths))) > np.log(GROWTH)
    lost = np.diff(frames) > 1
    return int((lost | moved | grew).sum())
