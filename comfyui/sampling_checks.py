"""What a model is given to sample: latents, prompts and pictures of its own kind, or one sentence says what is not.

Core checks none of it. Sockets are named as those of KSampler and of SamplerCustomAdvanced.

Letters in shapes: B batch, C channels, F latent frames, h, w latent height and width, L audio latents, S tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .given_pictures import GivenPictures
from .latent_parts import named_parts
from .package import jova


RATE_KEY = "frame_rate"  # as core's LTXVConditioning writes it
TEXT_KEYS = ("jova_text_2", "jova_text_mask", "jova_audio_text", "jova_audio_text_2", "jova_audio_text_mask")
LEAST_RATE_HZ, LARGEST_RATE_HZ = 0.001, 1000
VOICE_KEYS = ("jova_voices", "jova_voice_places")

# what core, its text encoders and our nodes write into a conditioning; what else holds pictures or sound is not read
KNOWN_CONDS = {
    "noise",
    "device",
    "latent_image",
    "denoise_mask",
    "latent_shapes",
    "cross_attn",
    "pooled_output",
    "mask",
}
KNOWN_CONDS |= {*TEXT_KEYS, *VOICE_KEYS, "jova_speaker_places", "attention_mask", "area", "model_conds", "sigmas"}


def check_latents(
    config: Any, outline: Any, latents: Tensor, shapes: Sequence[Sequence[int]], mask: Tensor | None
) -> None:
    """Refuse latents that are not this model's, before anything is done with them.

    Args:
        config: Of the transformer.
        outline: Of the pipeline.
        latents: Packed [B, 1, N], or of one modality as they are.
        shapes: Of the modalities.
        mask: Denoise mask, packed as the latents are; None where all is generated.
    """
    video, audio = named_parts(shapes)
    if len(shapes) == 1 and latents.ndim != len(shapes[0]):
        raise ValueError(
            "`latent_image` must hold video and sound, or one of them as it is, got one of them packed; take it out "
            "with LTXVSeparateAVLatent"
        )
    wanted = {"video": (video, config.out_channels), "audio": (audio, config.audio_in_channels)}
    for name, (shape, channels) in wanted.items():
        if shape is not None and shape[1] != channels:
            raise ValueError(
                f"`latent_image` must hold {name} latents of {channels} channels for this model, got {shape[1]}; "
                "use Empty JoVA Latent with the audio VAE of the same model"
            )
    patch = config.patch_size
    if video is not None and any(size % cells for size, cells in zip(video[2:], patch, strict=True)):
        factor = outline.video_codec.spatial_factor
        raise ValueError(
            f"`latent_image` must have sides that are multiples of {patch[1]} and {patch[2]} latents for this "
            f"model, got {list(video[3:])}; use sides of {patch[1] * factor} and {patch[2] * factor} pixels, or "
            "multiples of them"
        )
    if mask is not None and not bool(((mask >= 0) & (mask <= 1)).all()):  # written so that NaN fails as well
        raise ValueError(
            "the noise mask of `latent_image` must lie in [0, 1], got other values; look at it, or leave it out"
        )


def check_length(outline: Any, video: Sequence[int] | None, audio: Sequence[int] | None, frame_rate: float) -> None:
    """Refuse latents whose sound does not last as long as their frames."""
    if video is None or audio is None:
        return
    num_frames = (video[2] - 1) * outline.temporal_factor + 1
    expected = outline.audio_codec.num_latents_for(num_frames / frame_rate)
    if audio[2] != expected:
        raise ValueError(
            f"`latent_image` must hold {expected} audio latents for {num_frames} frames at {frame_rate:g} per "
            f"second, got {audio[2]}; connect JoVA Conditioning with this latent, which tells the model its frame "
            "rate"
        )


def check_conditioning(conds: Mapping[str, Any], widths: Any, batch_size: int) -> float | None:
    """Refuse an encoded prompt of another model, and what belongs to a prompt of other models.

    Args:
        conds: Of core, with the text as `cross_attn`.
        widths: `TextWidths` of the model.
        batch_size: Clips.

    Returns:
        Its frame rate; None where it says nothing.
    """
    name, checks = str(conds.get("prompt_type") or "positive"), jova("pipeline_checks")
    texts = {"cross_attn": widths.features, "jova_text_2": widths.features_2}
    texts |= {"jova_audio_text": widths.audio_features, "jova_audio_text_2": widths.features_2}
    for key, width in texts.items():
        text = conds.get(key)
        if text is None and key != "cross_attn":
            continue
        if not isinstance(text, Tensor) or text.ndim != 3 or text.shape[2] != width or 0 in text.shape:
            raise ValueError(
                f"`{name}` must be encoded by the text encoder of this model, features [B, S, {width}], got "
                f"{checks.describe_tensor(text)}; connect CLIP of the same Load JoVA"
            )
        if text.shape[0] not in (1, batch_size):
            raise ValueError(
                f"`{name}` must be one text for all clips or one per clip, got {text.shape[0]} for {batch_size}; use "
                "another `batch_size`"
            )
        jova("finite").check_finite_inputs({name: text}, "encode the prompt anew")
    if strangers := [key for key, value in conds.items() if key not in KNOWN_CONDS and holds_tensors(value)]:
        raise ValueError(
            f"`{name}` must hold a prompt, with what JoVA nodes add to it, got {listed(strangers)} as well; take the "
            "node out that adds it, and use JoVA Image to Video or JoVA Keyframe"
        )
    rate = conds.get(RATE_KEY)
    if rate is None:
        return None
    is_rate = jova("number_arguments").is_finite_number(rate) and LEAST_RATE_HZ <= rate <= LARGEST_RATE_HZ
    if not is_rate:
        raise ValueError(
            f"`{name}` must have a frame rate from {LEAST_RATE_HZ} to {LARGEST_RATE_HZ}, got {rate!r}; connect JoVA "
            "Conditioning with the latent that is sampled"
        )
    return float(rate)


def holds_tensors(value: Any) -> bool:
    """Whether something is pictures, sound or latents."""
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(map(holds_tensors, value)))


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return " and ".join(f"`{name}`" for name in names)


def check_clip(given: GivenPictures, shape: Sequence[int], places: Any) -> None:
    """Refuse pictures that were made for a clip of another size or length, or for another model."""
    if list(given.latents.shape[3:]) != list(shape[3:]):
        raise ValueError(
            f"`image` must have the size of the latents that are sampled, {list(shape[3:])}, got "
            f"{list(given.latents.shape[3:])}; give JoVA Image to Video and JoVA Keyframe the latent that is sampled"
        )
    is_alone = not places.encodes_grey and [*given.indices] == [0]  # it stands in a clip of any length
    num_frames = (shape[2] - 1) * places.temporal_factor + 1
    num_wanted = shape[2] if places.encodes_grey else len(given.frames)
    if (given.num_frames != num_frames and not is_alone) or len(given.indices) != num_wanted:
        raise ValueError(
            f"`image` must be that of a clip of {num_frames} frames with {num_wanted} latents for this model, got "
            f"{given.num_frames} and {len(given.indices)}; give JoVA Image to Video and JoVA Keyframe the latent "
            "that is sampled, made with the audio VAE of the same model"
        )


def check_pictures(conds: Mapping[str, Tensor | None]) -> None:
    """Refuse pictures within given frames: these come first."""
    share, is_picture = conds.get("video_share"), conds.get("is_picture")
    if share is not None and is_picture is not None and bool(((share == 0) & is_picture)[:, 1:].any()):
        raise ValueError(
            "`image` must be behind the given frames of the clip, got a picture within them; move it, or give "
            "JoVA Keyframe the latent of JoVA Given Video, which says where these end"
        )
