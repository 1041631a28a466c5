"""Sound and video as callers have them, whole files or arrays of any layout, in the one form that the codecs take.

Letters in shapes: B batch, C channels, S samples, T samples of the whole clip.
"""

import os
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from torch import Tensor

from .media_arrays import Audio, exact_frame_rate, mix_channels, to_unit_floats
from .media_reading import Sound, Video


logger = logging.get_logger(__name__)

MAX_FEW_CHANNELS = 8  # 7.1; more channels than these and than samples are samples


def unpack_video(video: Any, frame_rate: float | None) -> tuple[Any, float | None]:
    """Frames and their frame rate, of a `media.Video` as a whole or of anything else with the rate beside it."""
    if isinstance(video, Sound):
        raise ValueError("`video` must hold pictures, got sound alone; pass it as `audio`")
    if not isinstance(video, Video):
        return video, frame_rate
    if frame_rate is not None and exact_frame_rate(frame_rate) != video.frame_rate:
        raise ValueError(
            f"`frame_rate` must be that of the given `video`, {float(video.frame_rate):g}, got {float(frame_rate):g}; "
            "leave it out, or read the file with `media.read_video(path, frame_rate=...)`"
        )
    return video.frames, float(video.frame_rate)


def tell_assumed_rate(frame_rate: float) -> None:
    """Say at which frame rate a video is taken that came without."""
    logger.warning(
        f"`video` is taken at {frame_rate:g} frames per second, as this model makes clips; give its `frame_rate`, or "
        "what `media.read_video` returns as a whole"
    )


def unpack_audio(audio: Any, sampling_rate: int | None, name: str = "audio") -> tuple[Audio, int]:
    """Sound and its sampling rate, of a `media.Sound` or `media.Video` as a whole or of an array with its rate.

    Args:
        audio: Sound.
        sampling_rate: That is given beside it.
        name: Argument that it came from.
    """
    if isinstance(audio, Sound | Video):
        if audio.audio is None or audio.sampling_rate is None:
            raise ValueError(f"`{name}` must hold sound, got a video without; leave it out")
        if sampling_rate not in (None, audio.sampling_rate):
            raise ValueError(
                f"`{name}_sampling_rate` must be that of the given `{name}`, {audio.sampling_rate}, got "
                f"{sampling_rate}; leave it out"
            )
        return audio.audio, audio.sampling_rate
    if isinstance(audio, str | os.PathLike):
        raise ValueError(
            f"`{name}` must be an array or a tensor, got the name {str(audio)!r}; read the file first, by "
            f"`media.read_audio({str(audio)!r})`"
        )
    if not isinstance(audio, np.ndarray | Tensor):
        raise ValueError(
            f"`{name}` must be an array or a tensor, got {type(audio).__name__}; `media.read_audio` reads a file"
        )
    if sampling_rate is None:
        raise ValueError(
            f"`{name}_sampling_rate` must be given with an array of sound, got None; pass its samples per second, or "
            "pass what `media.read_audio` returns as a whole"
        )
    return audio, sampling_rate


def to_waveform_batch(audio: Audio, num_channels: int, name: str = "audio") -> Tensor:
    """Float waveform [B, num_channels, S] of any sound, mixed to the channels that are wanted.

    Args:
        audio: One sound, [S] or [channels, S], or a batch [B, channels, S], of numbers as `to_unit_floats` takes them.
        num_channels: Wanted.
        name: Argument that it came from.
    """
    sound = to_unit_floats(name, audio)
    sound = sound.reshape((1,) * (3 - sound.ndim) + sound.shape)
    if sound.ndim != 3 or 0 in sound.shape:
        raise ValueError(
            f"`{name}` must be [S], [channels, S] or [B, channels, S] with S > 0, got {list(np.shape(audio))}; bring "
            "it into one of these"
        )
    if sound.shape[1] > max(sound.shape[2], MAX_FEW_CHANNELS):
        raise ValueError(
            f"`{name}` must have its samples last, got {list(np.shape(audio))}; transpose it to [channels, S]"
        )
    if (peak := float(np.abs(sound).max())) > 1:
        logger.warning(f"`{name}` reaches {peak:.2f}: what lies beyond [-1, 1] is clipped")
        sound = sound.clip(-1, 1)
    elif peak == 0:
        logger.warning(f"`{name}` is silent from its beginning to its end")
    if sound.shape[1] != num_channels:
        logger.info(f"`{name}` of {sound.shape[1]} channels is mixed to {num_channels}")
    return torch.from_numpy(np.ascontiguousarray(mix_channels(sound, num_channels)))


def continue_sound(given: Tensor, generated: Tensor, num_fade_samples: int) -> Tensor:
    """Given sound, then what was generated after it, without a click: the codec's copy of the given part is not it.

    The generated part fades in over the given one played backwards from its end, which is continuous there.

    Args:
        given: [B, C, S].
        generated: The whole clip, [B, C, T] with T > S; its first S samples are the codec's copy.
        num_fade_samples: Length of the cross-fade, which lies after the given part.

    Returns:
        [B, C, T], the first S samples as given.
    """
    num_given = given.shape[2]
    rest = generated[..., num_given:]
    length = min(num_fade_samples, num_given, rest.shape[2])
    weight = torch.sin(torch.linspace(0, torch.pi / 2, length + 2)[1:-1]) ** 2
    mirrored = given[..., num_given - length :].flip(-1)
    faded = rest[..., :length] * weight + mirrored * (1 - weight)
    return torch.cat([given, faded, rest[..., length:]], dim=-1)
