"""A long video file as frames that are decoded when they are asked for, so that only a window of them is in memory.

Letters: F frames, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusers_jova.media import (
    PathLike,
    choose_frames,
    decode,
    exact_frame_rate,
    find_video_stream,
    first_frame,
    frame_to_array,
    has_sound,
    open_for_reading,
    pixel_aspect,
    read_image,
    read_sound,
    timed,
)
from diffusers_jova.training.data.scene_cuts import THUMBNAIL_PX, CutFinder


class Survey(NamedTuple):
    """What one pass through a file tells of it.

    Attributes:
        numbers: Number of the stored frame behind each frame that is taken at a rate.
        num_stored: Frames in the file.
        cuts: Numbers of the taken frames with which another scene begins.
    """

    numbers: list[int]
    num_stored: int
    cuts: list[int]


class FrameStream:
    """The frames that `read_video` takes at a frame rate.

    Args:
        path: Any file that libav can read.
        frame_rate: Frames per second wanted.
        allow_truncated: Take what is there of a file that announces more than it holds.

    Attributes:
        numbers: Number of the stored frame behind each frame of the stream, F.
        num_stored: Frames in the file.
        cuts: Numbers of the frames of the stream with which another scene begins.
        shape: Like that of the array of all frames, (F, H, W, 3).
    """

    def __init__(self, path: PathLike, frame_rate: float | Fraction, *, allow_truncated: bool = False) -> None:
        self.numbers, self.num_stored, self.cuts = survey(path, frame_rate, allow_truncated)
        frames = decode_frames(path, exact_frame_rate(frame_rate), allow_truncated)
        first = next(frames)
        self._frames, self._position = chain([first], frames), 0
        self.shape = (len(self.numbers), *first.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, window: slice) -> NDArray[np.uint8]:
        """Decode a window of frames, uint8 [frames, H, W, 3], that begins where the last one ended or later."""
        start, stop, _ = window.indices(len(self))
        if not self._position <= start < stop:
            raise ValueError(
                f"`window` must begin at frame {self._position} or later, got {start} to {stop}; open the file again"
            )
        frames = np.empty((stop - start, *self.shape[1:]), np.uint8)  # a list and its stack would take twice as much
        decoded = islice(self._frames, start - self._position, stop - self._position)
        self._position = stop
        for index in range(len(frames)):
            frame = next(decoded, None)
            if frame is None or frame.shape != self.shape[1:]:
                found = "none" if frame is None else list(frame.shape)
                raise ValueError(
                    f"`path` must be a video of one size, of {len(self)} frames at this rate, got {found} at frame "
                    f"{start + index}; convert it with ffmpeg"
                )
            frames[index] = frame
        return frames


class StillImage:
    """A picture as a stream of one frame.

    Args:
        path: Any picture that PIL can read.

    Attributes:
        numbers, num_stored, cuts, shape: As those of a `FrameStream`.
    """

    def __init__(self, path: PathLike) -> None:
        self._frames = np.array(read_image(path), np.uint8)[None]
        self.numbers, self.num_stored, self.shape = [0], 1, self._frames.shape
        self.cuts: list[int] = []

    def __len__(self) -> int:
        return 1

    def __getitem__(self, window: slice) -> NDArray[np.uint8]:
        """Take a window of the one frame, uint8 [1, H, W, 3]."""
        return self._frames[window]


def decode_frames(path: PathLike, frame_rate: Fraction, allow_truncated: bool = False) -> Iterator[NDArray[np.uint8]]:
    """Decode the frames of a file at a rate one by one, uint8 [H, W, 3]."""
    yield from (frame for frame, _ in decode_copies(path, frame_rate, allow_truncated))


def decode_copies(
    path: PathLike, frame_rate: Fraction, allow_truncated: bool = False
) -> Iterator[tuple[NDArray[np.uint8], bool]]:
    """Decode them, and tell of each whether it is the stored frame of the one before it, which the rate repeats."""
    last: Any = None
    with open_for_reading(path, allow_truncated=allow_truncated) as container:
        stream, rate = find_video_stream(container, path)
        aspect = pixel_aspect(stream)
        for frame in choose_frames(timed(decode(container, stream, allow_truncated), rate), rate, frame_rate):
            yield frame_to_array(frame, aspect), frame is last
            last = frame


def survey(path: PathLike, frame_rate: float | Fraction, allow_truncated: bool = False) -> Survey:
    """Tell which frames of a file `read_video` takes at a frame rate, and where its scenes change."""
    finder, times_s, num_stored = CutFinder(), [], 0
    width, height = THUMBNAIL_PX
    with open_for_reading(path, allow_truncated=allow_truncated) as container:
        stream, rate = find_video_stream(container, path)
        frames = timed(decode(container, stream, allow_truncated), rate)
        for time_s, frame in chain([first_frame(frames, path)], frames):
            times_s.append(time_s)
            if frame is None:  # where the last one ends
                break
            num_stored += 1
            finder.add(frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA"))
    numbered = ((time_s, number if number < num_stored else None) for number, time_s in enumerate(times_s))
    numbers = [*choose_frames(numbered, rate, exact_frame_rate(frame_rate))]
    cuts = [int(np.searchsorted(numbers, cut)) for cut in finder.cuts()]  # the first taken frame of the new scene
    return Survey(numbers, num_stored, [cut for cut in cuts if cut < len(numbers)])


def read_sound_of_video(
    path: PathLike, *, audio_track: int | None = None, allow_truncated: bool = False
) -> tuple[NDArray[np.float32] | None, int | None]:
    """Decode the sound of a video file from its first frame on.

    Args:
        path: Any file that libav can read.
        audio_track: Which sound track, counted from 0; None takes the one that players choose.
        allow_truncated: Take what is there of a file that announces more than it holds.

    Returns:
        [channels, samples] and its sampling rate; or None twice, if the file is silent and no track is asked for.
    """
    with open_for_reading(path, allow_truncated=allow_truncated) as container:
        stream, rate = find_video_stream(container, path)
        if audio_track is None and not has_sound(container, path):
            return None, None
        start_s, _ = first_frame(timed(decode(container, stream, allow_truncated), rate), path)
    return read_sound(path, start_s, audio_track=audio_track, allow_truncated=allow_truncated)
