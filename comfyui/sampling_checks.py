"""What a model is given to sample: latents, prompts and pictures of its own kind, or one sentence says what is not.

Core checks none of it. Sockets are named as those of KSampler and of SamplerCustomAdvanced.

Letters in shapes: B batch, C channels, F latent frames, h, w latent height and width, L audio latents, S tokens.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .given_pictures import PICTURES_KEY, GivenPictures
from .latent_parts import named_parts
from .package import jova


logger = logging.getLogger(__name__)

RATE_KEY = "frame_rate"  # as core's LTXVConditioning writes it
TEXT_KEYS = ("jova_text_2", "jova_text_mask", "jova_audio_text", "jova_audio_text_2", "jova_audio_text_mask")
LEAST_RATE_HZ, LARGEST_RATE_HZ = 0.001, 1000
VOICE_KEYS = ("jova_voices", "jova_voice_places")
SAID_KEY = "jova_said"  # of a conditioning: what is said, for models whose sound reads that alone
REFERENCE_KEY = "jova_reference_voice"  # of a conditioning: latents of a voice in front of the clip, [1 or B, R, C]
REFERENCE_TEXT_KEY = "jova_reference_text"  # and what is said behind what that voice says, features [1, S, D]
PLACES_KEY = "jova_speaker_places"  # of a conditioning: text rows where speakers stand, [1, any number]

LIMITS = ("area", "mask")  # of a conditioning: the part of a picture that it holds for
# what core's samplers and text encoders, and our nodes, write into a conditioning; a ControlNet is refused later
KNOWN_CONDS = {"cross_attn", "model_conds", "uuid", "pooled_output", "attention_mask", "prompt_type", "sigmas"}
KNOWN_CONDS |= {"width", "height", "strength", "mask_strength", "set_area_to_bounds", "default", "hooks"}
KNOWN_CONDS |= {"start_percent", "end_percent", "clip_start_percent", "clip_end_percent", "additional_models"}
KNOWN_CONDS |= {"timestep_start", "timestep_end", "control", "control_apply_to_uncond"}
KNOWN_CONDS |= {*TEXT_KEYS, *VOICE_KEYS, PLACES_KEY, "jova_num_voices", PICTURES_KEY, RATE_KEY, *LIMITS}
KNOWN_CONDS |= {SAID_KEY, REFERENCE_KEY, REFERENCE_TEXT_KEY}


def check_patches(model_options: Mapping[str, Any], object_patches: Mapping[str, Any]) -> None:
    """Refuse what other nodes attach to a handle and core would pass on to a model that does not read it.

    Args:
        model_options: Of the handle.
        object_patches: Of the handle.
    """
    options = model_options.get("transformer_options", {})
    refuse_found(
        {
            "scaled positions": bool(options.get("rope_options")),
            "another attention": options.get("optimized_attention_override") is not None,
            "windows of a long clip": model_options.get("context_handler") is not None,
            "another type to compute in (`dtype` of Load JoVA chooses it)": object_patches.get("manual_cast_dtype")
            is not None,
        }
    )


def refuse_found(found: Mapping[str, bool]) -> None:
    """Refuse patches in one sentence; each by its name."""
    if names := [name for name, is_given in found.items() if is_given]:
        raise ValueError(
            f"a JoVA model must be sampled without patches of its inside, got {' and '.join(names)}; remove the node "
            "that adds it"
        )


def check_latents(config: Any, outline: Any, latents: Tensor, shapes: Sequence[Sequence[int]]) -> None:
    """Refuse latents that are not this model's, before anything is done with them.

    Args:
        config: Of the transformer.
        outline: Of the pipeline.
        latents: Packed [B, 1, N], or of one modality as they are.
        shapes: Of the modalities.
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


def check_belongings(conds: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Refuse what other nodes put beside a prompt and no JoVA model reads, before core does anything with it.

    Args:
        conds: Of a guider: entries by the name of their socket, as core has converted them.
    """
    for name, entry in [(name, entry) for name, entries in conds.items() for entry in entries]:
        if limits := [key for key in LIMITS if entry.get(key) is not None]:
            raise ValueError(
                f"`{name}` must hold for the whole clip, got {listed(limits)}, which limits it to a part; take "
                "ConditioningSetArea, ConditioningSetMask or the like out"
            )
        unread = {key: value for key, value in entry.items() if key not in KNOWN_CONDS and value is not None}
        if strangers := [key for key, value in unread.items() if not isinstance(value, bool | int | float | str)]:
            raise ValueError(
                f"`{name}` must hold a prompt, with what JoVA nodes add to it, got {listed(strangers)} as well; take "
                "the node out that adds it, and use JoVA Image to Video or JoVA Keyframe"
            )
        if unread:
            logger.warning(f"`{name}` brings {listed([*unread])}, which no JoVA model reads: it has no effect")


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return " and ".join(f"`{name}`" for name in names)


def check_pictures(given: GivenPictures | None, share: Tensor | None, temporal_factor: int) -> None:
    """Refuse pictures within given frames: these come first.

    Args:
        given: None without pictures.
        share: Of sigma per latent frame [B, F], 0 where it is given; None where all is generated.
        temporal_factor: Frames per latent after the first.
    """
    if given is None or share is None:
        return
    latents = [jova("pipeline_media").latent_of_frame(frame, temporal_factor) for frame in given.frames if frame > 0]
    if bool((share[:, latents] == 0).any()):
        raise ValueError(
            "`image` must be behind the given frames of the clip, got a picture within them; move it, or give "
            "JoVA Keyframe the latent of JoVA Given Video, which says where these end"
        )
