"""The frames of a clip, and the faces in them, that networks of pictures look at.

Letters: P persons, F frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from diffusers_jova.evaluation.clip_signals import PictureTracks, frame_rate_of
from diffusers_jova.media import read_image
from diffusers_jova.training.data.face_crop import faces_of
from diffusers_jova.training.data.frame_stream import decode_frames
from diffusers_jova.training.data.mouth_detector import MouthDetector


FloatArray = npt.NDArray[np.floating]

MAX_FRAMES = 32  # of a clip
Box = tuple[int, int, int, int]


class Seen(NamedTuple):
    """A picture, and where the face in it is; None where none is seen."""

    picture: Image.Image
    face: Box | None


def read_frames(video: Path, picture: PictureTracks, most: int = MAX_FRAMES) -> list[Seen]:
    """Up to so many frames of a clip, evenly spaced from first to last, with the face that is seen most."""
    num_frames = len(picture.luma)
    chosen = np.unique(np.rint(np.linspace(0, num_frames - 1, min(num_frames, most))).astype(int))
    face = most_seen(picture.boxes)
    frames = decode_frames(video, frame_rate_of(video)) if picture.held is None else picture.held
    wanted = set(chosen.tolist())
    return [
        Seen(Image.fromarray(frame), None if face is None else square(face[number]))
        for number, frame in enumerate(frames)
        if number in wanted
    ]


def see_image(path: Path, detector: MouthDetector) -> Seen:
    """A reference image, and the largest face in it.

    Raises:
        ValueError: If the file is no image.
    """
    image = read_image(path)
    faces = faces_of(np.asarray(detector(np.asarray(image)[None]), np.float64))[:, 0]  # [P, 4]
    largest = max(faces, key=lambda face: face[2] - face[0], default=None)
    return Seen(image, None if largest is None else square(largest))


def most_seen(mouths: FloatArray | None) -> FloatArray | None:
    """Face boxes [F, 4] of the person whose mouth [P, F, 4] is seen most, NaN where it is not; None without one."""
    if mouths is None or not np.isfinite(mouths).all(-1).any():
        return None
    most = int(np.isfinite(mouths).all(-1).sum(-1).argmax())
    return np.asarray(faces_of(np.asarray(mouths[most : most + 1], np.float64))[0])


def square(face: FloatArray) -> Box | None:
    """The square around a face [4], in whole pixels that may lie outside of the picture; None for NaN."""
    if not np.isfinite(face).all():
        return None
    x, y = (face[0] + face[2]) / 2, (face[1] + face[3]) / 2
    half = max(face[2] - face[0], face[3] - face[1], 2) / 2
    left, top, right, bottom = np.rint([x - half, y - half, x + half, y + half]).astype(int).tolist()
    return left, top, right, bottom
