"""Words burnt into the pictures of a clip, each while it is said; moviepy sets and composes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusers_jova.media import from_moviepy, to_moviepy
from diffusers_jova.moviepy_clips import import_moviepy
from diffusers_jova.training.data.subtitles import Speech


LINES_PER_HEIGHT = 14
MIN_FONT_PX = 12


def burn_in(frames: npt.NDArray[np.uint8], frame_rate: float, speech: Sequence[Speech]) -> npt.NDArray[np.uint8]:
    """Write what is said at the lower edge, in as many lines as it takes.

    Args:
        frames: uint8 [F, H, W, 3].
        frame_rate: Frames per second.
        speech: What is said when; every part is shown for a frame at least.

    Returns:
        uint8 [F, H, W, 3]; pixels without a letter stay as they are.

    Raises:
        ImportError: If moviepy is not installed.
    """
    moviepy = import_moviepy()
    clip = to_moviepy(frames, frame_rate, None, None)
    height, width = frames.shape[1:3]
    font_px = max(MIN_FONT_PX, height // LINES_PER_HEIGHT)
    titles = []
    for part in (part for part in speech if part.start_s < clip.duration):
        end_s = min(max(part.end_s, part.start_s + 1 / frame_rate), clip.duration)
        title = moviepy.TextClip(
            text=part.text,
            method="caption",
            size=(width, None),
            font_size=font_px,
            color="white",
            stroke_color="black",
            stroke_width=max(1, font_px // 9),
            text_align="center",
            margin=(0, 0, 0, font_px // 3),
        )
        titles.append(title.with_start(max(part.start_s, 0.0)).with_end(end_s).with_position(("center", "bottom")))
    burnt: Any = from_moviepy(moviepy.CompositeVideoClip([clip, *titles]))
    return burnt.frames
