"""Video with sound as arrays: reading, writing, resampling, loudness; the names of several modules under one roof."""

from jova_cli.media_files import PathLike, open_for_reading

from .media_arrays import (
    Audio,
    check_sampling_rate,
    exact_frame_rate,
    integrated_loudness,
    is_silence,
    mix_channels,
    normalize_loudness,
    resample,
    to_float_audio,
)
from .media_reading import (
    Sound,
    Video,
    choose_frames,
    decode,
    find_video_stream,
    first_frame,
    frame_to_array,
    has_sound,
    pixel_aspect,
    read_audio,
    read_image,
    read_sound,
    read_video,
    timed,
)
from .media_writing import AAC_SAMPLING_RATES_HZ, write_audio, write_video
from .moviepy_clips import from_moviepy, to_moviepy
from .pictures import Pictures as Frames
from .pictures import to_uint8_frames


__all__ = [
    "AAC_SAMPLING_RATES_HZ",
    "Audio",
    "Frames",
    "PathLike",
    "Sound",
    "Video",
    "check_sampling_rate",
    "choose_frames",
    "decode",
    "exact_frame_rate",
    "find_video_stream",
    "first_frame",
    "frame_to_array",
    "from_moviepy",
    "has_sound",
    "integrated_loudness",
    "is_silence",
    "mix_channels",
    "normalize_loudness",
    "open_for_reading",
    "pixel_aspect",
    "read_audio",
    "read_image",
    "read_sound",
    "read_video",
    "resample",
    "timed",
    "to_float_audio",
    "to_moviepy",
    "to_uint8_frames",
    "write_audio",
    "write_video",
]
