"""Clips of moviepy out of ours and back, as arrays: every frame and every sample stays where it was.

moviepy asks a clip for what it shows at a time. Its own arrays and readers round that time in several ways, which
loses frames and samples; so what is ours is asked, and asks, a little before the middle of a frame or a sample, where
rounding and cutting off agree, and where sums of durations cannot name a neighbour.

Letters: F frames, H and W pixels, S samples.
"""

import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from .media_arrays import Audio, check_sampling_rate, exact_frame_rate, to_float_audio
from .media_reading import Sound, Video
from .pictures import STILLS, Pictures, on_white, to_uint8_frames


PHASE = 0.499  # of a frame or a sample: below one half, so that rounding names the same one as cutting off
TOLERANCE = 1e-6  # of a frame or a sample, for times that are its very beginning but for float64
CHUNK_SAMPLES = 16384  # asked for at once; moviepy's reader of files keeps 200,000


def import_moviepy() -> Any:
    """The library that edits clips, or how to get it."""
    try:
        import moviepy
    except ImportError as error:
        raise ImportError(
            "editing needs moviepy, which is not installed; install the package with its extra `moviepy`"
        ) from error
    return moviepy


def is_moviepy_clip(given: Any) -> bool:
    """Whether something is a clip of moviepy, which is not imported for the question."""
    kind = getattr(sys.modules.get("moviepy.Clip"), "Clip", None)
    return kind is not None and isinstance(given, kind)


def to_moviepy(
    frames: Pictures | None, frame_rate: float | Fraction, audio: Audio | None, sampling_rate: int | None
) -> Any:
    """A clip of moviepy that shows these frames and sounds like these samples; no file lies between.

    Args:
        frames: One video, as `to_uint8_frames` takes it; None for sound alone.
        frame_rate: Frames per second.
        audio: Float [channels, S] or [S] in [-1, 1], mono or stereo; None for a silent clip.
        sampling_rate: Samples per second.

    Returns:
        A `VideoClip`, or an `AudioClip` of sound alone.
    """
    moviepy = import_moviepy()
    duration_s = None
    clip = None
    if frames is not None:
        pictures, rate = to_uint8_frames(frames), exact_frame_rate(frame_rate)
        duration_s = float(len(pictures) / rate)
        clip = moviepy.VideoClip(_shown(pictures, float(rate)), duration=duration_s).with_fps(float(rate))
    if audio is None:
        return clip
    check_sampling_rate("sampling_rate", sampling_rate)  # type: ignore[arg-type]  # which None is refused by
    sound = to_float_audio(audio).T
    duration_s = duration_s or len(sound) / sampling_rate  # type: ignore[operator]
    heard = moviepy.AudioClip(_heard(sound, sampling_rate), duration=duration_s, fps=sampling_rate)
    return heard if clip is None else clip.with_audio(heard)


def from_moviepy(clip: Any, name: str = "clip") -> Video | Sound:
    """What a clip of moviepy shows and sounds like, as `media.read_video` and `media.read_audio` return it.

    Args:
        clip: With a duration, and with `fps` of its pictures and its sound.
        name: Argument that it came from.

    Raises:
        ValueError: If the clip does not say how long it is, or how many frames or samples it has in a second.
    """
    if not hasattr(clip, "mask"):  # which every picture of moviepy has
        return Sound(_samples(name, clip, _duration_s(name, clip)), int(clip.fps))
    duration_s, rate = _duration_s(name, clip), exact_frame_rate(_rate(name, clip, 24))
    num_frames = max(1, round(duration_s * rate))
    frames = np.stack([_picture(clip, (index + PHASE) / float(rate)) for index in range(num_frames)])
    if clip.audio is None:
        return Video(frames, rate, None, None)
    audio = _samples(name, clip.audio, float(num_frames / rate))
    return Video(frames, rate, audio, int(clip.audio.fps))


def unpack_moviepy(name: str, given: Any) -> Any:
    """What a call is given as a clip of moviepy, or in a list, in a form of ours; everything else as it is."""
    if isinstance(given, list):
        return [unpack_moviepy(name, entry) for entry in given]
    if not is_moviepy_clip(given):
        return given
    if name not in STILLS:
        return from_moviepy(given, name)
    if not hasattr(given, "mask"):
        raise ValueError(f"`{name}` must be a picture, got sound of moviepy; pass it as `audio`")
    return _picture(given, 0.0)


def _shown(pictures: np.ndarray, rate: float) -> Callable[[float], np.ndarray]:
    """What moviepy asks for pictures [F, H, W, 3]."""
    last = len(pictures) - 1
    return lambda time_s: pictures[min(max(int(time_s * rate + TOLERANCE), 0), last)]


def _heard(sound: np.ndarray, rate: int | None) -> Callable[[Any], np.ndarray]:
    """What moviepy asks for sound [S, channels], at one time or several; silence before and after."""
    around = np.concatenate([sound, np.zeros_like(sound[:1])])

    def heard(time_s: Any) -> np.ndarray:
        index = np.floor(np.asarray(time_s) * rate + TOLERANCE).astype(np.int64)
        return around[np.where((index >= 0) & (index < len(sound)), index, len(sound))]

    return heard


def _duration_s(name: str, clip: Any) -> float:
    if not hasattr(clip, "duration"):
        raise ValueError(f"`{name}` must be a clip of moviepy, got {clip!r}; make one of it, or read its file")
    if clip.duration is None:
        raise ValueError(f"`{name}` must be a clip with an end, got one of moviepy without; use `clip.with_duration`")
    return float(clip.duration)


def _rate(name: str, clip: Any, example: int) -> Any:
    rate = getattr(clip, "fps", None)
    if not rate:
        raise ValueError(
            f"`{name}` must say how many frames or samples it has in a second, got a clip of moviepy without `fps`; "
            f"use `clip.with_fps({example})`"
        )
    return rate


def _picture(clip: Any, time_s: float) -> np.ndarray:
    """What is seen at a time, uint8 [H, W, 3]; what is transparent lies on white."""
    picture = _to_uint8(clip.get_frame(time_s))
    if clip.mask is None:
        return picture
    alpha = _to_uint8(255 * clip.mask.get_frame(time_s))
    return on_white(np.concatenate([picture, alpha[..., None]], axis=-1))


def _to_uint8(picture: Any) -> np.ndarray:
    """Effects leave floats in [0, 255]."""
    array = np.asarray(picture)
    return array if array.dtype == np.uint8 else array.round().clip(0, 255).astype(np.uint8)


def _samples(name: str, clip: Any, duration_s: float) -> np.ndarray:
    """Sound [channels, S] of so many seconds; silence where the clip has ended."""
    rate = _rate(name, clip, 44100)
    check_sampling_rate(name, int(rate))
    own_s = duration_s if clip.duration is None else min(duration_s, clip.duration)
    sound = np.zeros((round(duration_s * rate), clip.nchannels), np.float32)
    for first in range(0, round(own_s * rate), CHUNK_SAMPLES):
        index = np.arange(first, min(first + CHUNK_SAMPLES, round(own_s * rate)))
        sound[index] = np.reshape(clip.get_frame((index + PHASE) / rate), (len(index), -1))
    return np.ascontiguousarray(sound.T)
