"""Video with sound from files: every frame and every sample stays where it was.

Letters: F frames, H and W pixels. Frames are uint8 [F, H, W, 3]; sound is float32 [channels, samples] in [-1, 1].
"""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from diffusers.utils import logging

from .media_arrays import exact_frame_rate, mix_channels, resample
from .pictures import to_rgb_image


logger = logging.get_logger(__name__)

PathLike = str | os.PathLike[str]
HDR_CURVES = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273


class Video(NamedTuple):
    """A decoded file.

    Attributes:
        frames: uint8 [F, H, W, 3].
        frame_rate: Frames per second, exact.
        audio: float32 [channels, samples], starting with the first frame; None for a silent file.
        sampling_rate: Samples per second; None for a silent file.
    """

    frames: np.ndarray
    frame_rate: Fraction
    audio: np.ndarray | None
    sampling_rate: int | None


def read_video(
    path: PathLike,
    *,
    frame_rate: float | Fraction | None = None,
    max_num_frames: int | None = None,
    max_side_px: int | None = None,
) -> Video:
    """Decode a video file and its sound.

    Args:
        path: Any file that libav can read.
        frame_rate: Frames per second wanted: for each tick of that clock the nearest frame is taken. None keeps the
            frames as they are stored.
        max_num_frames: Stop after this many frames; the sound is cut to the same duration.
        max_side_px: Scale down (never up) so that the longer side has at most this many pixels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be decoded or holds no picture.
    """
    target_rate = None if frame_rate is None else exact_frame_rate(frame_rate)
    for name, value in (("max_num_frames", max_num_frames), ("max_side_px", max_side_px)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}; None sets no limit")
    with open_for_reading(path) as container:
        stream, rate = find_video_stream(container, path)
        timed_frames = timed(container.decode(stream), rate)
        first = first_frame(timed_frames, path)
        chosen = choose_frames(chain([first], timed_frames), rate, target_rate)
        aspect = pixel_aspect(stream)
        frames = [frame_to_array(frame, aspect, max_side_px) for frame in islice(chosen, max_num_frames)]
        has_audio = bool(container.streams.audio)
    rate = target_rate or rate
    video = Video(np.stack(frames), rate, None, None)
    if not has_audio:
        return video
    audio, sampling_rate = read_sound(path, first[0])
    if max_num_frames is not None:
        audio = audio[:, : round(len(frames) / rate * sampling_rate)]
    return video._replace(audio=audio, sampling_rate=sampling_rate)


def read_audio(
    path: PathLike, *, sampling_rate: int | None = None, num_channels: int | None = None
) -> tuple[np.ndarray, int]:
    """Decode the sound of an audio or video file.

    Args:
        path: Any file that libav can read.
        sampling_rate: Samples per second wanted; None keeps the file's own.
        num_channels: 1 or 2; None keeps the file's own (surround sound is mixed down to stereo).

    Returns:
        Sound, float32 [channels, samples], and its sampling rate.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be decoded or holds no sound.
    """
    audio, file_rate = read_sound(path)
    if num_channels is not None:
        audio = mix_channels(audio, num_channels)
    if sampling_rate is not None:
        audio = resample(audio, file_rate, sampling_rate)
    return audio, sampling_rate or file_rate


def read_image(path: PathLike) -> PIL.Image.Image:
    """Read an image as RGB, turned the way the camera says; what is transparent lies on white.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no readable image.
    """
    path = _existing_file(path)
    try:
        with PIL.Image.open(path) as image:
            image.load()
            return to_rgb_image("path", image)
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:  # what Pillow raises for broken files
        raise ValueError(f"`path` must be a readable image, got {path} ({error}); open and save it again") from error


def import_av() -> Any:
    """The library that media files need, or how to get it."""
    try:
        import av
    except ImportError as error:
        raise ImportError("media files need PyAV, which is not installed; run `pip install av`") from error
    return av


def _existing_file(path: PathLike) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"`path` must be an existing file, got {path}; check the spelling")
    return Path(path)


@contextmanager
def open_for_reading(path: PathLike) -> Iterator[Any]:
    """Open a file, and turn every failure of libav while it is open into one helpful error."""
    av = import_av()
    path = _existing_file(path)
    try:
        with av.open(str(path)) as container:
            yield container
    except av.error.FFmpegError as error:
        raise ValueError(
            f"`path` must be a media file that libav can decode, got {path} ({error.strerror}); convert it with ffmpeg"
        ) from error


def find_video_stream(container: Any, path: PathLike) -> tuple[Any, Fraction]:
    """The picture of an open file, and its frames per second."""
    if not container.streams.video:
        raise ValueError(f"`path` must be a file with a video stream, got {path}; use `read_audio` for sound alone")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    if curve := HDR_CURVES.get(stream.codec_context.color_trc):
        _warn_of_hdr(str(path), curve)
    return stream, Fraction(stream.average_rate or stream.base_rate)


@cache  # once per file
def _warn_of_hdr(path: str, curve: str) -> None:
    logger.warning(
        f"{path} is video of high dynamic range ({curve}), whose colours will look pale; convert it first: "
        "ffmpeg -i IN -vf zscale=t=linear:npl=100,tonemap=hable,zscale=p=bt709:t=bt709:m=bt709,format=yuv420p OUT"
    )


def pixel_aspect(stream: Any) -> Fraction:
    """Width of a stored pixel over its height; 1 where the file does not say."""
    return Fraction(stream.sample_aspect_ratio or 1)


def timed(frames: Iterable[Any], rate: Fraction) -> Iterator[tuple[Fraction, Any]]:
    """Each frame with its time in seconds; bare streams carry no times, then the frames are evenly spaced."""
    for index, frame in enumerate(frames):
        yield (index / rate if frame.pts is None else frame.pts * frame.time_base), frame


def first_frame(timed_frames: Iterator[tuple[Fraction, Any]], path: PathLike) -> tuple[Fraction, Any]:
    """Take the first frame and its time in seconds; a file without frames is refused."""
    first = next(timed_frames, None)
    if first is None:
        raise ValueError(f"`path` must be a video of at least one frame, got {path}; check the file")
    return first


def choose_frames(
    timed_frames: Iterator[tuple[Fraction, Any]], rate: Fraction, target_rate: Fraction | None
) -> Iterator[Any]:
    """For each tick k / target_rate within the video, the frame whose time is nearest; or all frames."""
    if target_rate is None:
        yield from (frame for _, frame in timed_frames)
        return
    start_s, frame = next(timed_frames)
    tick, time_s = 0, start_s
    for next_time_s, next_frame in timed_frames:
        while start_s + tick / target_rate <= (time_s + next_time_s) / 2:
            yield frame
            tick += 1
        time_s, frame = next_time_s, next_frame
    end_s = time_s + 1 / rate
    while start_s + (tick + 1) / target_rate <= end_s or tick == 0:
        yield frame
        tick += 1


def frame_to_array(frame: Any, aspect: Fraction = Fraction(1), max_side_px: int | None = None) -> np.ndarray:
    """Decode one frame to uint8 [H, W, 3] with square pixels, scaled down and turned the way the file says.

    Args:
        frame: Of libav.
        aspect: Width of a stored pixel over its height.
        max_side_px: Longest side of what is returned; None for no limit.
    """
    shown_width = frame.width * float(aspect)
    scale = min(1.0, (max_side_px or math.inf) / max(shown_width, frame.height))
    width, height = max(1, round(shown_width * scale)), max(1, round(frame.height * scale))
    array = frame.to_ndarray(format="rgb24", width=width, height=height)
    quarter_turns = round(frame.rotation / 90)  # counterclockwise, as rot90 turns
    return np.ascontiguousarray(np.rot90(array, quarter_turns)) if quarter_turns % 4 else array


def read_sound(path: PathLike, start_s: Fraction | None = None) -> tuple[np.ndarray, int]:
    """Sound [channels, samples] that begins at ``start_s`` of the file's clock (None: where it begins itself)."""
    av = import_av()
    with open_for_reading(path) as container:
        if not container.streams.audio:
            raise ValueError(f"`path` must be a file with sound, got {path}; choose a file with an audio stream")
        stream = container.streams.audio[0]
        sampling_rate = stream.rate
        layout = "mono" if stream.channels == 1 else "stereo"
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=sampling_rate)
        decoded = [*container.decode(stream)]
        pieces = [piece for frame in [*decoded, None] for piece in resampler.resample(frame)]
        duration_s = None if stream.duration is None else stream.duration * stream.time_base
    if not decoded or not pieces:
        raise ValueError(f"`path` must be a file with sound, got {path} with an empty audio stream; check the file")
    audio = np.concatenate([piece.to_ndarray() for piece in pieces], axis=1)
    if duration_s is not None:  # the last block of a codec is padded; the container knows where the sound ends
        audio = audio[:, : math.ceil(duration_s * sampling_rate)]
    if start_s is not None and decoded[0].pts is not None:
        audio = _shift(audio, round((decoded[0].pts * decoded[0].time_base - start_s) * sampling_rate))
    return np.ascontiguousarray(audio, np.float32), sampling_rate


def _shift(audio: np.ndarray, num_samples: int) -> np.ndarray:
    """Delay by silence (positive) or cut the beginning (negative)."""
    return np.pad(audio, ((0, 0), (num_samples, 0))) if num_samples > 0 else audio[:, -num_samples:]
