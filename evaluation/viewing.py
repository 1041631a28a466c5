"""Small clips made large enough to look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


MIN_VIEW_PX = 256  # smaller clips are enlarged by whole pixels


def enlarge(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Repeat every pixel of [F, H, W, 3] `zoom_for(frames)` times in both directions."""
    zoom = zoom_for(frames)
    return frames.repeat(zoom, axis=1).repeat(zoom, axis=2)


def zoom_for(frames: npt.NDArray[np.uint8]) -> int:
    """Choose the factor that makes small clips large enough to look at."""
    return max(1, -(-MIN_VIEW_PX // min(frames.shape[1:3])))
