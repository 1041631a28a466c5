"""Given pictures of a clip that is made by windows: checked together, fitted once, dealt out to the windows.

Letters in shapes: H, W height and width.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jova_cli.clip_limits import check_size
from jova_cli.windows import Window

from .conditions import check_repeats
from .keyframes import Keyframe, check_keyframes, place_keyframes, settle_keyframes, tell_fits
from .moviepy_clips import unpack_moviepy
from .pictures import check_fit, fit_pictures, tell_fit, to_pictures
from .pipeline_jova import JoVAPipeline


class WindowPictures:
    """The `image`, `last_image` and `keyframes` of a call, on the frames of the whole clip.

    Args:
        pipeline: That makes the windows.
        arguments: Of the call: the pictures, `fit`, `height` and `width`.
        num_frames: Of the clip.

    Attributes:
        keyframes: Pictures in one form by their frames in the clip, `last_image` among them.
        image: What a window is given as `image`; None for none.

    Raises:
        ValueError: If a picture cannot be read or placed; no window is begun then.
    """

    def __init__(self, pipeline: JoVAPipeline, arguments: Mapping[str, Any], num_frames: int) -> None:
        self.pipeline = pipeline
        self.fit = arguments.get("fit", "cover")
        self.size = {name: arguments.get(name) for name in ("height", "width")}
        self.image = arguments.get("image")
        check_fit(self.fit)
        self._first: list[np.ndarray] = []  # in one form, [H, W, 3]
        if self.image is not None:
            self._first = to_pictures("image", unpack_moviepy("image", self.image))
            check_repeats("image", len(self._first), 1)
        settled = settle_keyframes(arguments.get("last_image"), arguments.get("keyframes"))
        self.keyframes = place_keyframes(*settled, num_frames)
        check_keyframes(self.keyframes, 1, pipeline.picture_places)

    def fit_all(self) -> None:
        """Bring all pictures to the size of the clip and say what is cut, once and not with every window."""
        pipeline, size = self.pipeline, self.pipeline.defaults.override(**self.size)
        check_size(size, pipeline.video_codec.spatial_factor, pipeline.transformer.config.patch_size)
        target = (size.height, size.width)
        tell_fit("image", self._first, target, self.fit)
        tell_fits(self.keyframes, target, self.fit)
        if self._first and self._first[0].shape[:2] != target:
            self._first = self.image = self._fitted(self._first, target)
        self.keyframes = {
            frame: Keyframe(given.name, self._fitted(given.pictures, target))
            for frame, given in self.keyframes.items()
        }

    def keyframes_of(self, window: Window) -> dict[int, list[np.ndarray]]:
        """Pictures by their frames in a window, of those that it does not begin with."""
        first_own = window.first_frame + window.num_overlap
        own = [frame for frame in self.keyframes if first_own <= frame < window.end_frame]
        return {frame - window.first_frame: self.keyframes[frame].pictures for frame in own}

    def _fitted(self, pictures: list[np.ndarray], target: tuple[int, int]) -> list[np.ndarray]:
        """Pictures [H, W, 3] at the size of the clip."""
        return [fit_pictures(picture[None], *target, self.fit)[0] for picture in pictures]
