"""LATENTs of video and sound, and media of them.

`samples` is nested, video [B, C, F, h, w] and sound [B, C, L], and so is `noise_mask`: 0 is given, 1 is generated.
What else belongs to a clip stands under `jova` as a `Clip`.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from .clip_length import settle_clip
from .clips import CLIP_KEY, Clip, clip_of, masks_of
from .codecs import JovaAudioVAE, to_socket
from .given_pictures import (
    PICTURES_KEY,
    add_picture,
    check_same_clip,
    first_place,
    fit_frames,
    fitted,
    picture_places,
    place_picture,
    to_image,
)
from .package import jova
from .sampling_checks import RATE_KEY
from .text import changed
from .video import make_video


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
        num_channels=video[0],
        num_audio_channels=codec.latent_channels,
        num_audio_latents=num_audio_latents,
        places=picture_places(outline, audio_vae.saved.component_config("transformer")),
        is_as_long_as_sound=follows,
    )
    return {
        "samples": NestedTensor([to_socket(torch.zeros(shape)) for shape in shapes]),
        "sample_rate": codec.sampling_rate,  # core's VAEDecodeAudio reads it
        CLIP_KEY: clip,
    }


# 2. What is given


def set_audio(latent: dict[str, Any], audio_vae: JovaAudioVAE, audio: Any, name: str = "audio") -> dict[str, Any]:
    """A LATENT whose sound is given, wholly or from the start.

    Args:
        latent: Of the clip.
        audio_vae: Of the model.
        audio: AUDIO of any rate and channels, one for all clips or one per clip.
        name: Socket that it came from.
    """
    clip, codec = clip_of(latent), audio_vae.codec
    shape = clip.shape(latent["samples"])
    to_batch, rate = jova("given_media").to_waveform_batch, audio["sample_rate"]
    waveform = to_batch(audio["waveform"], codec.num_channels, name)
    clip_s, sound_s = clip.num_frames / clip.frame_rate, waveform.shape[2] / rate
    if waveform.shape[2] > round(
        (clip_s + (0.0 if clip.given_video is None else clip.temporal_factor / clip.frame_rate)) * rate
    ):
        raise ValueError(
            f"`{name}` must last at most as long as the clip, {clip_s:.3f} s, got {sound_s:.3f} s; cut it with "
            "TrimAudioDuration, or let it set the length: Empty JoVA Latent with length 0 and this sound"
        )
    if clip.is_as_long_as_sound:
        waveform = jova("clip_shape").fill_with_silence(waveform, clip_s, rate)
    given = shape.fit_given_audio(waveform, rate, codec)
    encoded = audio_vae.encode_sound(given, name)[:, : shape.num_audio_latents]
    encoded = jova("conditions").repeat_to_batch(name, encoded, shape.batch_size)
    latents = jova("conditions").GivenLatents.prefix(encoded, shape.num_audio_latents, axis=1)
    return with_given(latent, 1, latents.latents.transpose(1, 2), latents.is_given, replace(clip, given_audio=given))


def set_video(latent: dict[str, Any], vae: Any, images: Tensor, fit: str, name: str = "images") -> dict[str, Any]:
    """A LATENT whose frames are given, wholly or from the start.

    Args:
        latent: Of the clip.
        vae: Of the model.
        images: IMAGE [N, h, w, 3]; the first 4k + 1 count.
        fit: How pictures of another shape become those of the clip.
        name: Socket that they came from.
    """
    clip = clip_of(latent)
    shape = clip.shape(latent["samples"])
    frames = jova("pictures").to_frames(name, images.numpy())
    frames = jova("clip_shape").cut_video(frames, clip.num_frames, clip.temporal_factor, name)
    pixels = to_image(fit_frames(name, frames, shape, fit))
    encoded = jova("conditions").repeat_to_batch(name, vae.encode(pixels), shape.batch_size)
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
    masks = masks_of(latent) or [torch.ones_like(part[:, :1]) for part in parts]
    parts[index] = to_socket(samples)
    view = (1, 1, -1, 1, 1) if samples.ndim == 5 else (1, 1, -1)
    masks[index] = (~is_given).float().view(view).expand_as(parts[index][:, :1]).clone()
    return {**latent, "samples": NestedTensor(parts), "noise_mask": NestedTensor(masks), CLIP_KEY: clip}


def with_picture(
    conditionings: Sequence[list[Any]],
    vae: Any,
    latent: dict[str, Any],
    image: Tensor,
    fit: str,
    frame: int | None = None,
    name: str = "image",
    frame_name: str = "frame",
) -> list[list[Any]]:
    """CONDITIONINGs with a picture at a frame, each besides those that it has.

    Args:
        conditionings: Stay as they are.
        vae: Of the model.
        latent: Of the clip.
        image: IMAGE, one for all clips or one per clip.
        fit: How a picture of another shape becomes one of the clip.
        frame: Where it stands behind the first one, negative from the end; None for the first frame itself.
        name: Socket that it came from.
        frame_name: Widget that the frame came from, or the socket where it is always the same.

    Raises:
        ValueError: The frame is not in the clip, or has a picture, or the model has no place for it.
    """
    clip = clip_of(latent)
    shape = clip.shape(latent["samples"])
    pictures = jova("pictures").to_pictures(name, list(image.numpy()))
    jova("conditions").check_repeats(name, len(pictures), shape.batch_size)
    signed, found = fitted(name, pictures, shape, fit), {}

    def add(options: dict[str, Any]) -> dict[str, Any]:
        given = options.get(PICTURES_KEY)
        if id(given) not in found:  # both prompts have the same ones, most of the time
            check_same_clip(given, shape)
            placed = first_place(given) if frame is None else place_picture(frame, given, clip, frame_name)
            found[id(given)] = add_picture(given, vae, placed, signed, clip.places, shape)
        return {PICTURES_KEY: found[id(given)]}

    return [changed(conditioning, add) for conditioning in conditionings]


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
    clip = clip_of(samples, "samples")
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
    masks = masks_of(samples)
    return masks is not None and not bool(masks[index].select(2, 0).any())
