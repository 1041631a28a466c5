"""A given video of a clip by windows, whose sound is made: dealt out to the windows, it comes back as it was given.

Letters in shapes: N frames, h, w height and width as given, H, W those of the clip.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from diffusers.utils import logging

from jova_cli.latent_lengths import whole_frames
from jova_cli.windows import Window

from .clip_shape import cut_video
from .given_media import tell_assumed_rate, unpack_video
from .moviepy_clips import unpack_moviepy
from .pictures import fit_pictures, tell_fit, to_frames
from .pipeline_jova import JoVAPipeline
from .reference_rows import reads_references


logger = logging.get_logger(__name__)


class GivenVideo:
    """The frames of the whole clip.

    Args:
        pipeline: That makes the windows.
        video: A `media.Video`, or frames as a call takes them.
        arguments: Of the call: `frame_rate`, `fit`, `height` and `width`.
        num_frames: Of the clip, where the caller asks for a number.

    Attributes:
        frames: In one form [N, h, w, 3], N being whole latents.
        frame_rate: Frames per second.

    Raises:
        ValueError: If it is no video, or ends before the clip: windows do not go on with pictures.
    """

    def __init__(
        self, pipeline: JoVAPipeline, video: Any, arguments: Mapping[str, Any], num_frames: int | None
    ) -> None:
        check_no_pictures(arguments, reads_references(pipeline.transformer.config))
        given = unpack_moviepy("video", video)
        frames, frame_rate = unpack_video(given, arguments.get("frame_rate"))
        if getattr(given, "audio", None) is not None:
            logger.warning("the sound of `video` is not used: that of the clip is made")
        if frame_rate is None:
            frame_rate = pipeline.defaults.frame_rate
            tell_assumed_rate(frame_rate)
        frames, factor = to_frames("video", frames), pipeline.temporal_factor
        if num_frames is not None and num_frames > len(frames):
            raise ValueError(
                f"`video` must be as long as the clip that is made by windows, {num_frames} frames, got "
                f"{len(frames)}; leave the number of frames out, which makes {whole_frames(len(frames), factor)} of "
                "them"
            )
        self.pipeline, self.frame_rate = pipeline, float(frame_rate)
        self.frames = cut_video(frames, num_frames, factor, frame_rate=self.frame_rate)
        self.fit = arguments.get("fit", "cover")
        size = pipeline.defaults.override(**{name: arguments.get(name) for name in ("height", "width")})
        self.size = (size.height, size.width)

    def tell_fit(self) -> None:
        """Say what is cut, once and not with every window."""
        tell_fit("video", [self.frames], self.size, self.fit)

    def of(self, window: Window) -> np.ndarray:
        """The frames [N, H, W, 3] of a window, at the size of the clip."""
        return fit_pictures(self.frames[window.first_frame : window.end_frame], *self.size, self.fit)


def check_no_pictures(arguments: Mapping[str, Any], reads_image: bool) -> None:
    """Refuse pictures at frames that the video has.

    Args:
        arguments: Of the call.
        reads_image: Whether the model reads an `image` in front of the clip.
    """
    for name in ("last_image", "keyframes", *(() if reads_image else ("image",))):
        if arguments.get(name) is not None:
            raise ValueError(f"`{name}` must be left out beside a `video` of the whole clip, which has all frames")
