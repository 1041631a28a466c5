"""Where the crop of a clip lies so that it holds the faces: at rest if it can, else along a smooth path.

Letters: P persons, F frames, H x W pixels. Faces are estimated from mouths, whose boxes are what is known of a clip.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray


Boxes = NDArray[np.floating[Any]]

# a face around its mouth, in widths of the mouth from its centre: to either side, up, and down
SIDE, UP, DOWN = 1.3, 2.3, 1.1
MIN_SEEN = 0.3  # of the frames in which the most visible person is seen; who is seen less is not followed
SMOOTHING_S = 0.5  # standard deviation of the average over time


def faces_of(mouths: Boxes) -> Boxes:
    """Estimate face boxes [P, F, 4] from mouth boxes; the width is the person's usual one, mouths open and close."""
    if not mouths.size:
        return np.zeros(mouths.shape)
    widths = np.where(np.isfinite(mouths).all(-1), mouths[..., 2] - mouths[..., 0], np.nan)  # [P, F]
    usual = np.array([np.nanmedian(row) if np.isfinite(row).any() else np.nan for row in widths])[:, None]
    x, y = (mouths[..., 0] + mouths[..., 2]) / 2, (mouths[..., 1] + mouths[..., 3]) / 2
    return np.stack([x - SIDE * usual, y - UP * usual, x + SIDE * usual, y + DOWN * usual], axis=-1)


def crop_path(
    mouths: Boxes, size: tuple[int, int], crop_size: tuple[int, int], frame_rate: float
) -> NDArray[np.int_] | None:
    """Find the left upper corner of the crop for every frame.

    A crop at rest that holds all faces of the clip is the best; then one that holds the most visible person's; where
    that moves too far, the crop follows.

    Args:
        mouths: [P, F, 4] in pixels of the file, NaN = no mouth.
        size: Height and width of the file.
        crop_size: Height and width of the crop, in its pixels.
        frame_rate: Frames per second.

    Returns:
        (x, y) per frame, [F, 2]; None where nobody is seen, or nothing is cut away.
    """
    faces = _within(faces_of(mouths), size)
    num_seen = np.isfinite(faces).all(-1).sum(-1)
    if not num_seen.any() or crop_size == size:
        return None
    (height, width), (crop_height, crop_width) = size, crop_size
    room = np.array([width - crop_width, height - crop_height])
    extent = np.array([crop_width, crop_height])
    for followed in (faces[num_seen >= MIN_SEEN * num_seen.max()], faces[[num_seen.argmax()]]):
        low, high = np.nanmin(followed[..., :2], axis=(0, 1)), np.nanmax(followed[..., 2:], axis=(0, 1))
        if (high - low <= extent).all():
            corners = np.tile((low + high - extent) / 2, (mouths.shape[1], 1))
            return np.rint(corners).astype(int).clip(0, room)
    face = faces[num_seen.argmax()]
    centres = _fill((face[:, :2] + face[:, 2:]) / 2)
    smooth = scipy.ndimage.gaussian_filter1d(centres, SMOOTHING_S * frame_rate, axis=0, mode="nearest")
    return np.rint(smooth - extent / 2).astype(int).clip(0, room)


def cut_share(mouths: Boxes, size: tuple[int, int], windows: NDArray[np.int_]) -> float:
    """Share of the faces of a clip that a crop cuts into, as far as they are in the picture.

    Args:
        mouths: [P, F, 4] in pixels of the file.
        size: Height and width of the file.
        windows: The crop of each frame, xyxy [F, 4].
    """
    faces = _within(faces_of(mouths), size)
    seen = np.isfinite(faces.sum(-1))
    if not seen.any():
        return 0.0
    beyond = np.maximum((windows[:, :2] - faces[..., :2]).max(-1), (faces[..., 2:] - windows[:, 2:]).max(-1))
    return float((beyond[seen] > 1).mean())  # a pixel is lost to rounding


def face_size(mouths: Boxes, size: tuple[int, int]) -> float | None:
    """Share of the picture that the face takes whose mouth is seen most, the median over its frames; None without one.

    Args:
        mouths: [P, F, 4] in pixels of the picture, NaN = no mouth.
        size: Height and width of the picture.
    """
    faces = _within(faces_of(mouths), size)
    seen = np.asarray(np.isfinite(faces).all(-1))  # [P, F]
    if not seen.any():
        return None
    most = int(seen.sum(1).argmax())
    face = faces[most][seen[most]]
    return float(np.median((face[:, 2] - face[:, 0]) * (face[:, 3] - face[:, 1]))) / (size[0] * size[1])


def _within(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """Clip boxes to the picture; NaN stays."""
    return np.clip(boxes, 0, np.array([size[1], size[0]] * 2))


def _fill(points: Boxes) -> Boxes:
    """Fill the frames [F, 2] without a point: linearly between those that have one, constantly beyond them."""
    seen = np.flatnonzero(np.isfinite(points).all(-1))
    return np.stack([np.interp(np.arange(len(points)), seen, points[seen, axis]) for axis in range(2)], axis=-1)
