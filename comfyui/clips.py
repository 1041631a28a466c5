"""What belongs to the latents of a clip, and whether latents still are those of it.

Letters in shapes: B clips, C channels, F latent frames, h, w latent height and width, L audio latents, N frames.
"""

from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from .overshoot import MASK_ADVICE, to_unit
from .package import jova


CLIP_KEY = "jova"


@dataclass(frozen=True)
class Clip:
    """What latents do not tell of their clip.

    Args:
        frame_rate: Frames per second.
        num_frames: Frames.
        spatial_factor: Pixels per latent cell.
        temporal_factor: Frames per latent after the first.
        num_channels: Of the video latents.
        num_audio_channels: Of the audio latents.
        num_audio_latents: As long as the frames.
        places: Where the model has places for pictures.
        is_as_long_as_sound: Whether a given sound alone set the length, and is filled up with silence.
        given_audio: Given sound [1 or B, channels, S] at the codec's rate; None without.
        given_video: Given frames [N, H, W, 3] in [0, 1]; None without.
    """

    frame_rate: float
    num_frames: int
    spatial_factor: int
    temporal_factor: int
    num_channels: int
    num_audio_channels: int
    num_audio_latents: int
    places: Any
    is_as_long_as_sound: bool = False
    given_audio: Tensor | None = None
    given_video: Tensor | None = None

    @property
    def num_latent_frames(self) -> int:
        """Latents of its frames, F."""
        return (self.num_frames - 1) // self.temporal_factor + 1

    def shape(self, samples: Any) -> Any:
        """`ClipShape` of its latents."""
        video, audio = samples.unbind()
        height, width = (size * self.spatial_factor for size in video.shape[3:])
        return jova("clip_shape").ClipShape(
            video.shape[0], height, width, self.num_frames, self.frame_rate, audio.shape[2]
        )

    def check_vae(self, vae: Any, name: str) -> None:
        """Refuse a video VAE of another model.

        Args:
            vae: Of ours or of core.
            name: Socket of the latents.
        """
        wanted = (self.num_channels, self.spatial_factor, self.temporal_factor)
        found = (vae.latent_channels, vae.spacial_compression_decode(), vae.temporal_compression_decode())
        if found != wanted:
            raise ValueError(
                f"`vae` must be that of the model of `{name}`, with {describe_codec(*wanted)}, got one with "
                f"{describe_codec(*found)}; connect the VAE of the same Load JoVA"
            )

    def check_audio_vae(self, audio_vae: Any, name: str) -> None:
        """Refuse an audio VAE of another model.

        Args:
            audio_vae: Of ours.
            name: Socket of the latents.
        """
        num_latents = audio_vae.codec.num_latents_for(self.num_frames / self.frame_rate)
        wanted, found = (self.num_audio_channels, self.num_audio_latents), (audio_vae.latent_channels, num_latents)
        if found != wanted:
            raise ValueError(
                f"`audio_vae` must be that of the model of `{name}`, with {wanted[0]} channels and {wanted[1]} "
                f"latents for this clip, got one with {found[0]} and {found[1]}; connect that of the same Load JoVA"
            )


def describe_codec(num_channels: Any, spatial_factor: Any, temporal_factor: Any) -> str:
    """Latents of a video VAE in words."""
    return f"{num_channels} channels per {spatial_factor} x {spatial_factor} pixels of {temporal_factor} frames"


def clip_of(latent: Any, name: str = "latent") -> Clip:
    """What a LATENT tells of its clip.

    Args:
        latent: Of a socket.
        name: Of the socket.

    Raises:
        ValueError: It holds something else, or no longer what belongs to its clip.
    """
    samples, clip = (latent.get(key) if isinstance(latent, dict) else None for key in ("samples", CLIP_KEY))
    if samples is None or not isinstance(clip, Clip) or not getattr(samples, "is_nested", False):
        raise ValueError(
            f"`{name}` must hold video and sound of a JoVA clip, got another latent; begin with Empty JoVA Latent, "
            "and join parts with LTXVConcatAVLatent"
        )
    parts = samples.unbind()
    shapes = [list(part.shape) for part in parts]
    is_whole = [len(shape) for shape in shapes] == [5, 3] and shapes[0][0] == shapes[1][0]
    wanted = [clip.num_channels, clip.num_latent_frames], [clip.num_audio_channels, clip.num_audio_latents]
    if not is_whole or (shapes[0][1:3], shapes[1][1:]) != wanted or 0 in shapes[0]:
        raise ValueError(
            f"`{name}` must hold video [B, {wanted[0][0]}, {wanted[0][1]}, h, w] and sound [B, {wanted[1][0]}, "
            f"{wanted[1][1]}] of its clip, got {' and '.join(map(str, shapes))}; set another length or number of "
            "clips in Empty JoVA Latent"
        )
    finite = jova("finite").check_finite_inputs
    finite({name: parts[0], f"{name}` and its `sound": parts[1]}, "sample it anew")
    masks_of(latent, name)
    return clip


def masks_of(latent: dict[str, Any], name: str = "latent") -> list[Tensor] | None:
    """Noise masks of video [B, 1, F, h, w] and sound [B, 1, L], as core reads them: 0 is given; None without.

    A mask that is not nested, of SetLatentNoiseMask, is one of the video.

    Args:
        latent: Of a clip.
        name: Of its socket.

    Raises:
        ValueError: They hold something else than values from 0 to 1.
    """
    mask, parts = latent.get("noise_mask"), latent["samples"].unbind()
    if mask is None:
        return None
    given = list(mask.unbind())[: len(parts)] if getattr(mask, "is_nested", False) else [mask]
    found = [comfy.utils.reshape_mask(m, part.shape) for m, part in zip(given, parts, strict=False)]
    found = [to_unit(f"the noise mask of `{name}`", m, MASK_ADVICE, is_told=False) for m in found]
    found = [m[:, :1].expand(part.shape[0], -1, *m.shape[2:]) for m, part in zip(found, parts, strict=False)]
    return found + [torch.ones_like(part[:, :1]) for part in parts[len(found) :]]
