"""Mouth mask: pixel boxes of mouths -> latent cells that encode a mouth (JoVA, arXiv:2512.13677v1, Eq. 5).

Letters: P persons, F pixel frames, K + 1 latent frames (F = 1 + temporal_factor * K), h x w latent cells.
Boxes are float [..., 4] = (x1, y1, x2, y2) in pixels; a box of NaN means that no mouth is known.

The video VAE is causal: latent 0 encodes frame 0 alone, latent k >= 1 encodes frames temporal_factor * (k - 1) + 1
to temporal_factor * k. The window of Eq. 5 follows this grouping; blocks of frames 0..3, 4..7, ... do not.

Edge cases, all of them without a fallback to the face or to the whole frame:

* several mouths: the cells of each person's rectangle, united; cells between two persons stay free
* a short gap in a track is interpolated (`interpolate_gaps`), a longer one stays a gap
* a window with some boxes uses those; a window without any has an empty mask
* a mouth outside the crop or nearly so is dropped (`clip_visible`)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


Boxes = NDArray[np.floating[Any]]


def windows(num_frames: int, temporal_factor: int = 4) -> list[range]:
    """List the pixel frames that each latent frame encodes: [0], [1..4], [5..8], ... for a factor of 4.

    Trailing frames that fill no latent belong to none, as in the VAE.
    """
    if num_frames < 1:
        raise ValueError(f"`num_frames` must be at least 1, got {num_frames}")
    num_later_latents = (num_frames - 1) // temporal_factor
    starts = (1 + temporal_factor * k for k in range(num_later_latents))
    return [range(1), *(range(start, start + temporal_factor) for start in starts)]


def transform_boxes(
    boxes: ArrayLike,
    scale: float | tuple[float, float],
    crop_xy: tuple[float, float] = (0.0, 0.0),
    flip_width: float | None = None,
) -> Boxes:
    """Carry boxes through resize, crop and flip in float, exactly as the pixels go.

    Args:
        boxes: [..., 4] in source pixels.
        scale: Resized size / source size; a pair is (horizontal, vertical).
        crop_xy: Left and top edge of the crop in resized pixels.
        flip_width: Width of the crop in pixels if it is mirrored left to right; None leaves it as it is.

    Returns:
        [..., 4] float64 in pixels of the crop; boxes may lie outside of it, see `clip_visible`.
    """
    scale_x, scale_y = scale if isinstance(scale, tuple) else (scale, scale)
    scaled = np.asarray(boxes, np.float64) * np.array([scale_x, scale_y, scale_x, scale_y])
    moved = scaled - np.array([*crop_xy, *crop_xy])
    if flip_width is None:
        return moved
    x1, y1, x2, y2 = np.moveaxis(moved, -1, 0)
    return np.stack([flip_width - x2, y1, flip_width - x1, y2], axis=-1)


def interpolate_gaps(boxes: ArrayLike, max_gap: int) -> Boxes:
    """Fill gaps of at most `max_gap` frames inside each track linearly; longer gaps and open ends stay NaN.

    Args:
        boxes: Tracks [..., F, 4].
        max_gap: Longest run of missing frames to fill; a third of a second is the frame rate / 3.
    """
    filled = np.array(boxes, np.float64)
    for track in filled.reshape(-1, *filled.shape[-2:]):  # views: writing to a track writes to `filled`
        seen = np.flatnonzero(np.isfinite(track).all(axis=-1))
        for before, after in pairwise(seen):
            if 1 < after - before <= max_gap + 1:
                steps = np.arange(1, after - before)[:, None] / (after - before)
                track[before + 1 : after] = (1 - steps) * track[before] + steps * track[after]
    return filled


def clip_visible(boxes: ArrayLike, height: int, width: int, min_visible: float = 0.25) -> Boxes:
    """Clip boxes [..., 4] to the picture; one that keeps less than `min_visible` of its area becomes NaN."""
    original = np.asarray(boxes, np.float64)
    clipped = np.clip(original, 0.0, np.array([width, height, width, height], np.float64))
    area = _area(clipped)
    visible = (area > 0) & (area >= min_visible * _area(original))  # False for NaN
    return np.where(visible[..., None], clipped, np.nan)


def scale_boxes(boxes: ArrayLike, factor: float) -> Boxes:
    """Grow (factor > 1) or shrink boxes [..., 4] about their centres."""
    corners = np.asarray(boxes, np.float64)
    centre = (corners[..., :2] + corners[..., 2:]) / 2
    half = (corners[..., 2:] - corners[..., :2]) / 2 * factor
    return np.concatenate([centre - half, centre + half], axis=-1)


def check_boxes(boxes: ArrayLike, what: str) -> None:
    """Refuse boxes [..., 4] that cannot be corners in pixels; `what` names them in the message.

    Raises:
        ValueError: A corner is infinite or lies before the other, or all boxes lie within one pixel, as shares of a
            picture do.
    """
    corners = np.asarray(boxes, np.float64)
    if np.isinf(corners).any():
        raise ValueError(f"{what} must be finite, or NaN where no mouth is seen, got infinite ones; leave those out")
    if (corners[..., 2:] < corners[..., :2]).any():
        raise ValueError(
            f"{what} must be (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, got a box whose second corner comes first; "
            "is it (x, y, width, height)?"
        )
    known = _with_area(corners)
    if len(known) and known.min() >= 0 and known.max() <= 1:
        raise ValueError(
            f"{what} must be in pixels, got boxes that all lie within [0, 1]; multiply x by the width of the picture "
            "and y by its height"
        )


def check_inside(boxes: ArrayLike, height: int, width: int, what: str) -> None:
    """Refuse boxes [..., 4] of a clip that all lie outside of its picture; a face may leave it in some frames.

    Raises:
        ValueError: They do; the message begins with `what`.
    """
    known = _with_area(np.asarray(boxes, np.float64))
    x1, y1, x2, y2 = known.T
    if len(known) and not ((x1 < width) & (y1 < height) & (x2 > 0) & (y2 > 0)).any():
        raise ValueError(
            f"{what} must be in pixels of its picture of {width} x {height}, got boxes that all lie outside of it; "
            "scale them from the size that they were found in"
        )


def without_gaps(boxes: Sequence[Any]) -> list[Any]:
    """Nested lists [P][F] with boxes of NaN where None stands for a frame without a mouth."""
    return [[[np.nan] * 4 if box is None else box for box in person] for person in boxes]


def latent_mask(
    boxes: ArrayLike, num_frames: int, height: int, width: int, spatial_factor: int = 8, temporal_factor: int = 4
) -> NDArray[np.bool_]:
    """Mark the latent cells that encode a mouth.

    JoVA (arXiv:2512.13677v1), Eq. 5, for each person and the window W_k of latent k:
        (floor(min x1 / s), floor(min y1 / s), ceil(max x2 / s), ceil(max y2 / s)), min and max over the frames of W_k
    as half-open ranges of cells. The rectangles of several persons are united.

    Args:
        boxes: [P, F, 4] in pixels of the crop, NaN = no mouth, None in nested lists; P may be 0.
        num_frames: F, number of pixel frames.
        height: Pixel rows of the crop.
        width: Pixel columns of the crop.
        spatial_factor: Pixels per latent cell, s.
        temporal_factor: Pixel frames per latent frame after the first.

    Returns:
        [1 + K, h, w], True where a mouth is encoded.

    Raises:
        ValueError: The boxes are not one per frame and person, or no corners in pixels, see `check_boxes`.
    """
    frames_of = windows(num_frames, temporal_factor)
    try:
        tracks = np.asarray(without_gaps(boxes) if isinstance(boxes, list | tuple) else boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`boxes` must be numbers [P, {num_frames}, 4], with NaN or None for a frame without a mouth, got "
            f"{error}; write [persons][frames][x1, y1, x2, y2]"
        ) from error
    if tracks.size and (tracks.ndim < 2 or tracks.shape[-2:] != (num_frames, 4)):
        raise ValueError(
            f"`boxes` must be [P, {num_frames}, 4], one box for each frame and person, got {list(tracks.shape)}; fill "
            "frames without a mouth with NaN"
        )
    tracks = tracks.reshape(-1, num_frames, 4)
    check_boxes(tracks, "`boxes`")
    latent_height, latent_width = height // spatial_factor, width // spatial_factor
    mask = np.zeros((len(frames_of), latent_height, latent_width), bool)
    for track in tracks:
        for k, frames in enumerate(frames_of):
            seen = track[frames.start : frames.stop]
            seen = seen[np.isfinite(seen).all(axis=-1)]
            if len(seen):
                x1, y1 = np.floor(seen[:, :2].min(axis=0) / spatial_factor).clip(0).astype(int)
                x2, y2 = np.ceil(seen[:, 2:].max(axis=0) / spatial_factor).clip(0).astype(int)
                mask[k, y1:y2, x1:x2] = True
    return mask


def _with_area(boxes: Boxes) -> Boxes:
    """The boxes [N, 4] of [..., 4] that are known and not empty."""
    known = boxes[np.isfinite(boxes).all(axis=-1)]
    return known[_area(known) > 0]


def _area(boxes: Boxes) -> Boxes:
    """Area of boxes [..., 4]; 0 for an inverted box."""
    return (boxes[..., 2] - boxes[..., 0]).clip(0) * (boxes[..., 3] - boxes[..., 1]).clip(0)
