"""Where the camera or the place changes at once: hard cuts, found by how much small copies of the frames differ.

A change of at least `MIN_CHANGE` that stands out from its neighbours and stays is a cut: a fast pan has neighbours of
its own size, and the picture after a flash is the one before it. Slow dissolves are not found.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


THUMBNAIL_PX = (32, 18)  # width, height
MIN_CHANGE = 15.0  # mean difference of the pixels, of 255
MIN_RATIO = 3.0  # to the mean change of the neighbours
NUM_NEIGHBOURS = 2  # frames on either side


class CutFinder:
    """Collects how much each frame differs from the two before it, so that no picture has to be kept."""

    def __init__(self) -> None:
        self._last: list[NDArray[np.float32]] = []
        self._changes: list[float] = []
        self._lasting: list[float] = []

    def add(self, thumbnail: NDArray[np.uint8]) -> None:
        """Take the next frame, uint8 [h, w, 3]."""
        picture = thumbnail.astype(np.float32)
        change, lasting = (
            float(np.abs(picture - self._last[-back]).mean()) if len(self._last) >= back else 0.0 for back in (1, 2)
        )
        self._changes.append(change)
        self._lasting.append(lasting)
        self._last = [*self._last[-1:], picture]

    def cuts(self) -> list[int]:
        """Number the frames with which another scene begins."""
        return [frame for frame in range(1, len(self._changes)) if self._is_cut(frame)]

    def _is_cut(self, frame: int) -> bool:
        change = self._changes[frame]
        first = max(1, frame - NUM_NEIGHBOURS)
        near = self._changes[first:frame] + self._changes[frame + 1 : frame + 1 + NUM_NEIGHBOURS]
        lasting = [*self._lasting[max(frame, 2) : frame + 2]]  # over the frame itself, and over the change
        stays = all(difference >= change / 2 for difference in lasting)
        return change >= MIN_CHANGE and change >= MIN_RATIO * (sum(near) / len(near) if near else 0.0) and stays


def shots_between(cuts: Iterable[int], num_frames: int) -> list[range]:
    """The frames of each scene, given the frames with which scenes begin."""
    edges = sorted({0, num_frames, *(cut for cut in cuts if 0 < cut < num_frames)})
    return [range(start, stop) for start, stop in pairwise(edges)]
