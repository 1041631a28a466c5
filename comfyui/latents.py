"""LATENTs of video and sound, and media of them.

`samples` is nested, video [B, C, F, h, w] and sound [B, C, L], and so is `noise_mask`: 0 is given, 1 is generated.
What else belongs to a clip stands under `jova` as a `Clip`.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from .clip_length import settle_clip
from .codecs import JovaAudioVAE, to_socket
from .first_frame import IMAGE_KEY, encode_pictures, fills_image_with_grey, fitted, to_image
from .model import RATE_KEY
from .package import jova
from .text import changed
from .video import make_video


CLIP_KEY = "jova"


@dataclass(frozen=True)
class Clip:
    """What latents do not tell of their clip.

    Args:
        frame_rate: Frames per second.
        num_frames: Frames.
        spatial_factor: Pixels per latent cell.
        temporal_factor: Frames per latent after the first.
        fills_image_with_grey: Whether grey frames are encoded behind a first one, for the model's condition channels.
        is_as_long_as_sound: Whether a given sound alone set the length, and is filled up with silence.
        given_audio: Given sound [1 or B, channels, S] at the codec's rate; None without.
        given_video: Given frames [N, H, W, 3] in [0, 1]; None without.
    """

    frame_rate: float
    num_frames: int
    spatial_factor: int
    temporal_factor: int
    fills_image_with_grey: bool = False
    is_as_long_as_sound: bool = False
    given_audio: Tensor | None = None
    given_video: Tensor | None = None

    def shape(self, samples: Any) -> Any:
        """`ClipShape` of its latents."""
        video, audio = samples.unbind()
        height, width = (size * self.spatial_factor for size in video.shape[3:])
        return jova("clip_shape").ClipShape(
            video.shape[0], height, width, self.num_frames, self.frame_rate, audio.shape[2]
        )


def clip_of(latent: dict[str, Any]) -> Clip:
    """What a LATENT tells of its clip."""
    clip = latent.get(CLIP_KEY)
    if clip is None or not getattr(latent["samples"], "is_nested", False):
        raise ValueError(
            "`latent` must hold video and sound of a JoVA clip, got another latent; begin with Empty JoVA Latent, and "
            "join parts with LTXVConcatAVLatent"
        )
    return clip


# 1. Where sampling starts


def empty_latent(
    audio_vae: Any,
    width: int,
    height: int,
    length: int,
    frame_rate: float,
    batch_size: int,
    audio: Any = None,
    images: Any = None,
) -> dict[str, Any]:
    """A LATENT of zeros.

    Args:
        audio_vae: From Load JoVA.
        width: Pixels; 0 takes the model's own.
        height: Pixels; 0 takes the model's own.
        length: Frames; 0 takes the length of `audio` or `images`, or the model's own.
        frame_rate: Frames per second; 0 takes the model's own.
        batch_size: Clips.
        audio: AUDIO that sets the length.
        images: IMAGE that sets the length.
    """
    if not isinstance(audio_vae, JovaAudioVAE):
        raise ValueError(
            f"`audio_vae` must be the audio VAE of Load JoVA, got a {type(audio_vae).__name__}; connect that one"
        )
    outline, codec = audio_vae.outline, audio_vae.codec
    settings, follows = settle_clip(audio_vae.saved, outline, width, height, length, frame_rate, audio, images)
    video = outline.video_codec.latent_shape(settings.num_frames, settings.height, settings.width)
    num_audio_latents = codec.num_latents_for(settings.num_frames / settings.frame_rate)
    shapes = [(batch_size, *video), (batch_size, codec.latent_channels, num_audio_latents)]
    clip = Clip(
        frame_rate=settings.frame_rate,
        num_frames=settings.num_frames,
        spatial_factor=outline.video_codec.spatial_factor,
        temporal_factor=outline.temporal_factor,
        fills_image_with_grey=fills_image_with_grey(outline, audio_vae.saved.component_config("transformer")),
        is_as_long_as_sound=follows,
    )
    return {
        "samples": NestedTensor([to_socket(torch.zeros(shape)) for shape in shapes]),
        "sample_rate": codec.sampling_rate,  # core's VAEDecodeAudio reads it
        CLIP_KEY: clip,
    }


# 2. What is given


def set_audio(latent: dict[str, Any], audio_vae: JovaAudioVAE, audio: Any) -> dict[str, Any]:
    """A LATENT whose sound is given, wholly or from the start.

    Args:
        latent: Of the clip.
        audio_vae: Of the model.
        audio: AUDIO of any rate and channels, one for all clips or one per clip.
    """
    clip, codec = clip_of(latent), audio_vae.codec
    shape = clip.shape(latent["samples"])
    waveform, rate = jova("given_media").to_waveform_batch(audio["waveform"], codec.num_channels), audio["sample_rate"]
    clip_s, sound_s = clip.num_frames / clip.frame_rate, waveform.shape[2] / rate
    if waveform.shape[2] > round(
        (clip_s + (0.0 if clip.given_video is None else clip.temporal_factor / clip.frame_rate)) * rate
    ):
        raise ValueError(
            f"`audio` must last at most as long as the clip, {clip_s:.3f} s, got {sound_s:.3f} s; cut it with "
            "TrimAudioDuration, or let it set the length: Empty JoVA Latent with length 0 and this sound"
        )
    if clip.is_as_long_as_sound:
        waveform = jova("clip_shape").fill_with_silence(waveform, clip_s, rate)
    given = shape.fit_given_audio(waveform, rate, codec)
    encoded = audio_vae.encode_sound(given)[:, : shape.num_audio_latents]
    encoded = jova("conditions").repeat_to_batch("audio", encoded, shape.batch_size)
    latents = jova("conditions").GivenLatents.prefix(encoded, shape.num_audio_latents, axis=1)
    return with_given(latent, 1, latents.latents.transpose(1, 2), latents.is_given, replace(clip, given_audio=given))


def set_video(latent: dict[str, Any], vae: Any, images: Tensor, fit: str) -> dict[str, Any]:
    """A LATENT whose frames are given, wholly or from the start.

    Args:
        latent: Of the clip.
        vae: Of the model.
        images: IMAGE [N, h, w, 3]; the first 4k + 1 count.
        fit: How pictures of another shape become those of the clip.
    """
    clip = clip_of(latent)
    shape = clip.shape(latent["samples"])
    frames = jova("pictures").to_frames("images", images)
    frames = jova("clip_shape").cut_video(frames, clip.num_frames, clip.temporal_factor)
    pixels = to_image(fitted("images", frames, shape, fit))
    encoded = jova("conditions").repeat_to_batch("video", vae.encode(pixels), shape.batch_size)
    latents = jova("conditions").GivenLatents.prefix(encoded, latent["samples"].unbind()[0].shape[2], axis=2)
    return with_given(latent, 0, latents.latents, latents.is_given, replace(clip, given_video=pixels))


def with_given(latent: dict[str, Any], index: int, samples: Tensor, is_given: Tensor, clip: Clip) -> dict[str, Any]:
    """A LATENT with other samples of one modality, the given ones masked.

    Args:
        latent: Stays as it is.
        index: 0 for video, 1 for sound.
        samples: [B, C, F, h, w] or [B, C, L].
        is_given: Bool per latent frame [F] or audio latent [L].
        clip: What the new one tells of its clip.
    """
    parts = list(latent["samples"].unbind())
    masks = latent.get("noise_mask")
    masks = [torch.ones_like(part[:, :1]) for part in parts] if masks is None else list(masks.unbind())
    parts[index] = to_socket(samples)
    view = (1, 1, -1, 1, 1) if samples.ndim == 5 else (1, 1, -1)
    masks[index] = (~is_given).float().view(view).expand_as(parts[index][:, :1]).clone()
    return {**latent, "samples": NestedTensor(parts), "noise_mask": NestedTensor(masks), CLIP_KEY: clip}


def encode_first_frame(vae: Any, latent: dict[str, Any], image: Tensor, fit: str) -> Tensor:
    """Raw latents of one picture, or of one per clip, as `encode_pictures` has them."""
    clip = clip_of(latent)
    pictures = jova("pictures").to_pictures("image", image)
    return encode_pictures(vae, pictures, clip.shape(latent["samples"]), fit, clip.fills_image_with_grey)


def with_image(conditioning: list[Any], latents: Tensor) -> list[Any]:
    """A CONDITIONING with the latents of a first frame."""
    return changed(conditioning, lambda _: {IMAGE_KEY: latents})


def with_rate(conditioning: list[Any], latent: dict[str, Any]) -> list[Any]:
    """A CONDITIONING with the frame rate of a LATENT."""
    return changed(conditioning, lambda _: {RATE_KEY: clip_of(latent).frame_rate})


# 3. What comes out


def decode(
    samples: dict[str, Any], vae: Any, audio_vae: JovaAudioVAE, index: int
) -> tuple[Any, Tensor, dict[str, Any]]:
    """VIDEO, IMAGE and AUDIO of one clip of a LATENT; what was given comes back as it was.

    Args:
        samples: Of the sampler.
        vae: Of the model.
        audio_vae: Of the model.
        index: Which clip of the batch.
    """
    clip = clip_of(samples)
    parts = samples["samples"].unbind()
    num_clips = parts[0].shape[0]
    if index >= num_clips:
        raise ValueError(f"`index` must be below the number of clips, {num_clips}, got {index}; use {num_clips - 1}")
    video, audio = (part[index : index + 1] for part in parts)
    given_video, given_audio = given_media(samples)
    frames = vae.decode(video)[0]
    if given_video is not None:
        frames = torch.cat([given_video, frames[len(given_video) :]])
    sound = decode_sound(samples, audio, audio_vae, index)
    rate = Fraction(jova("media_arrays").exact_frame_rate(clip.frame_rate))
    is_recorded = given_video is not None or given_audio is not None
    return make_video(frames, sound, rate, is_recorded=is_recorded), frames, sound


def decode_sound(samples: dict[str, Any], latents: Tensor, audio_vae: JovaAudioVAE, index: int) -> dict[str, Any]:
    """AUDIO of one clip, exactly as long as its frames, in two channels.

    Args:
        samples: LATENT of the whole batch.
        latents: Of the clip's sound, [1, C, L].
        audio_vae: Of the model.
        index: Which clip it is.
    """
    clip, codec = clip_of(samples), audio_vae.codec
    shape = clip.shape(samples["samples"])._replace(batch_size=1)
    _, given = given_media(samples)
    if given is not None and given.shape[0] > 1:
        given = given[index * given.shape[0] // samples["samples"].unbind()[1].shape[0]][None]
    waveform = audio_vae.ready().decode_audio(latents.transpose(1, 2), "pt", shape, given)
    stereo = jova("media_arrays").mix_channels(waveform.numpy(), 2)  # core's AAC would halve the power of mono
    return {"waveform": to_socket(torch.from_numpy(stereo)), "sample_rate": codec.sampling_rate}


def given_media(samples: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    """Frames and sound of a LATENT that come back as they were: given, and still masked when it was sampled."""
    clip = clip_of(samples)
    video = clip.given_video if is_masked(samples, 0) else None
    return video, clip.given_audio if is_masked(samples, 1) else None


def is_masked(samples: dict[str, Any], index: int) -> bool:
    """Whether the first latents of a modality were given when they were sampled."""
    mask = samples.get("noise_mask")
    if mask is None:
        return False
    part = mask.unbind()[index]
    return not bool(part.select(2, 0).any())
