"""Sizes of training clips, and how pictures and the boxes in them come to one.

Letters: F frames, H x W pixels, P persons. A bucket is the size of a clip, written FxHxW.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diffusers_jova.pictures import Fit, fit_pictures, place
from diffusers_jova.training.data.mouth_mask import clip_visible, transform_boxes
from jova_cli.clip_limits import Bucket


MAX_UNLIKE = 0.6  # share below which the shape of a file is worth a word, a head may be gone
SHAPE_NOTES: dict[Fit, Callable[[float], str]] = {  # what another shape means for the share that both have in common
    "cover": lambda share: f"the crop keeps {share:.0%} of the picture",
    "contain": lambda share: f"the picture fills {share:.0%} of the clip",
    "stretch": lambda share: f"the picture is bent by a factor of {1 / share:.2f}",
}


def fit(
    frames: NDArray[np.uint8], boxes: NDArray[np.float32], bucket: Bucket, how: Fit = "cover"
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Bring frames to the size of the bucket; boxes go the same way in float.

    Args:
        frames: uint8 [F, h, w, 3].
        boxes: [P, F, 4] in pixels of `frames`.
        bucket: Size wanted.
        how: Whether the centre is cropped, the rest filled up with black, or the picture bent.

    Returns:
        uint8 [F, H, W, 3], and boxes in its pixels, clipped to it, NaN where too little is left.
    """
    placed = place(frames.shape[1:3], (bucket.height, bucket.width), how)
    moved = transform_boxes(boxes, (placed.scale_x, placed.scale_y), (placed.crop_x, placed.crop_y))
    visible = clip_visible(moved, bucket.height, bucket.width).astype(np.float32)
    return fit_pictures(frames, bucket.height, bucket.width, how), visible


def fit_along(
    frames: NDArray[np.uint8], boxes: NDArray[np.float32], bucket: Bucket, path: NDArray[np.int_]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Crop along a path in place of the centre, then resize; see `fit`.

    Args:
        frames: uint8 [F, h, w, 3].
        boxes: [P, F, 4] in pixels of `frames`.
        bucket: Size wanted.
        path: Left upper corner (x, y) of the crop in each frame, [F, 2]; whole pixels of `frames`.

    Returns:
        uint8 [F, H, W, 3], and boxes in its pixels.
    """
    height, width = crop_size(frames.shape[1:3], bucket)
    cut = np.stack([frame[y : y + height, x : x + width] for frame, (x, y) in zip(frames, path, strict=True)])
    return fit(cut, (boxes - np.tile(path, 2)).astype(np.float32), bucket)


def crop_size(size: tuple[int, int], bucket: Bucket) -> tuple[int, int]:
    """Height and width of what the crop keeps of a picture of `size`, in its whole pixels."""
    scale = max(bucket.height / size[0], bucket.width / size[1])
    height, width = (min(side, max(1, round(wanted / scale))) for side, wanted in zip(size, bucket[1:], strict=True))
    return height, width


def crop_windows(
    size: tuple[int, int], bucket: Bucket, path: NDArray[np.int_] | None, num_frames: int
) -> NDArray[np.int_]:
    """What the crop keeps of each frame of `size`, xyxy [F, 4]; None is the path that stays at the centre."""
    height, width = crop_size(size, bucket)
    centre = np.array([(size[1] - width) // 2, (size[0] - height) // 2])
    corners = np.tile(centre, (num_frames, 1)) if path is None else path
    return np.concatenate([corners, corners + np.array([width, height])], axis=1)


def shape_stretch(bucket: Bucket, size: tuple[int, ...]) -> float:
    """How far the aspect ratio of (height, width) is from the bucket; the crop keeps exp(-stretch) of the picture."""
    return abs(math.log(bucket.height / bucket.width * size[1] / size[0]))


def is_upscaled(size: tuple[int, ...], bucket: Bucket, how: Fit) -> bool:
    """Whether a picture of (height, width) gets larger on the way to the bucket."""
    placed = place((size[0], size[1]), (bucket.height, bucket.width), how)
    return max(placed.scale_x, placed.scale_y) > 1
