"""What is given to the model besides text: a reference image on the channel axis, and clean latents at timestep 0.

Letters in shapes: B batch, C channels, F latent frames, H, W latent height and width, L audio latents.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.utils import logging
from torch import Tensor

from .media_arrays import Audio, exact_frame_rate, mix_channels, to_unit_floats
from .media_reading import Sound, Video


logger = logging.get_logger(__name__)

MAX_FEW_CHANNELS = 8  # 7.1; more channels than these and than samples are samples


def condition_channels(latents: Tensor, image_latents: Tensor | None, num_mask_channels: int) -> Tensor:
    """Channels behind the noisy video latents: the reference image's latent and the mask of what is given.

    JoVA (arXiv:2512.13677v1), Sec. 3.2.1 concatenates the reference image's VAE latent on the channel axis. It stands
    at latent frame 0 with mask 1; latent frames without an image hold zeros, the mean latent, with mask 0.

    Args:
        latents: Video latents [B, C, F, H, W]; gives shape, dtype and device.
        image_latents: Normalised latent of the reference image [B, C, 1, H, W]; None without one.
        num_mask_channels: Channels of the mask.

    Returns:
        [B, C + num_mask_channels, F, H, W].
    """
    batch_size, num_channels, *sizes = latents.shape
    channels = latents.new_zeros(batch_size, num_channels + num_mask_channels, *sizes)
    if image_latents is not None:
        channels[:, :num_channels, :1] = image_latents
        channels[:, num_channels:, :1] = 1
    return channels


class GivenLatents(NamedTuple):
    """Clean latents of one modality that are conditions, not generated: tokens at timestep 0.

    Args:
        latents: Clean latents of the whole clip, video [B, C, F, H, W] or audio [B, L, C]; read where given.
        is_given: Bool per latent, [F] or [L].
    """

    latents: Tensor
    is_given: Tensor

    @classmethod
    def prefix(cls, clean: Tensor, num_latents: int, axis: int) -> "GivenLatents":
        """Give the first latents of a clip.

        Args:
            clean: Their values, at most `num_latents` along `axis`.
            num_latents: Latents of the whole clip.
            axis: Axis of time, 2 for video and 1 for audio.
        """
        num_given = min(clean.shape[axis], num_latents)
        shape = list(clean.shape)
        shape[axis] = num_latents - num_given
        latents = torch.cat([clean.narrow(axis, 0, num_given), clean.new_zeros(shape)], dim=axis)
        return cls(latents, torch.arange(num_latents, device=clean.device) < num_given)

    @property
    def covers_all(self) -> bool:
        """Whether nothing is left to generate."""
        return bool(self.is_given.all())

    def impose(self, latents: Tensor) -> Tensor:
        """Put the clean latents in place of what `latents` holds there."""
        shape = (1, 1, -1, 1, 1) if latents.ndim == 5 else (1, -1, 1)
        return torch.where(self.is_given.view(shape), self.latents.to(latents), latents)

    def timesteps(self, timestep: Tensor) -> Tensor:
        """Timesteps per latent, [B, F] or [B, L], from one per sample [B]: 0 where a latent is given."""
        return timestep[:, None] * ~self.is_given


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


def unpack_audio(audio: Any, sampling_rate: int | None) -> tuple[Audio, int]:
    """Sound and its sampling rate, of a `media.Sound` or `media.Video` as a whole or of an array with its rate."""
    if isinstance(audio, Sound | Video):
        if audio.audio is None or audio.sampling_rate is None:
            raise ValueError("`audio` must hold sound, got a video without; leave it out")
        if sampling_rate not in (None, audio.sampling_rate):
            raise ValueError(
                f"`audio_sampling_rate` must be that of the given `audio`, {audio.sampling_rate}, got "
                f"{sampling_rate}; leave it out"
            )
        return audio.audio, audio.sampling_rate
    if not isinstance(audio, np.ndarray | Tensor):
        raise ValueError(
            f"`audio` must be an array or a tensor, got {type(audio).__name__}; `media.read_audio` reads a file"
        )
    if sampling_rate is None:
        raise ValueError(
            "`audio_sampling_rate` must be given with an array of sound, got None; pass its samples per second, or "
            "pass what `media.read_audio` returns as a whole"
        )
    return audio, sampling_rate


def to_waveform_batch(audio: Audio, num_channels: int) -> Tensor:
    """Float waveform [B, num_channels, S] of any sound, mixed to the channels that are wanted.

    Args:
        audio: One sound, [S] or [channels, S], or a batch [B, channels, S], of numbers as `to_unit_floats` takes them.
        num_channels: Wanted.
    """
    sound = to_unit_floats("audio", audio)
    sound = sound.reshape((1,) * (3 - sound.ndim) + sound.shape)
    if sound.ndim != 3 or 0 in sound.shape:
        raise ValueError(
            f"`audio` must be [S], [channels, S] or [B, channels, S] with S > 0, got {list(np.shape(audio))}; bring "
            "it into one of these"
        )
    if sound.shape[1] > max(sound.shape[2], MAX_FEW_CHANNELS):
        raise ValueError(
            f"`audio` must have its samples last, got {list(np.shape(audio))}; transpose it to [channels, S]"
        )
    if (peak := float(np.abs(sound).max())) > 1:
        logger.warning(f"`audio` reaches {peak:.2f}: what lies beyond [-1, 1] is clipped")
        sound = sound.clip(-1, 1)
    if sound.shape[1] != num_channels:
        logger.info(f"`audio` of {sound.shape[1]} channels is mixed to {num_channels}")
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


def repeat_to_batch(name: str, rows: Tensor, batch_size: int) -> Tensor:
    """Rows of one clip, or of one per prompt, to one per clip: [1 or P, ...] -> [B, ...]."""
    if batch_size % rows.shape[0]:
        raise ValueError(
            f"`{name}` must be one for all clips or one per prompt, got {rows.shape[0]} for {batch_size} clips; "
            "pass one, or as many as there are prompts"
        )
    return rows.repeat_interleave(batch_size // rows.shape[0], dim=0)
